"""The plot of the report: an SVG that is readable on light and dark pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.alternatives import EMPTY_VIEW
from benchmarks.baseline import BASELINE, SERVICE
from benchmarks.load.workloads import WORKLOADS
from benchmarks.report.results import THIS, Results

# Of medium brightness, for light and dark pages.
INK = "#808890"
OWN = "#2f9e6e"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    # Keep text as text: it is searchable, and the file needs no embedded font.
    "svg.fonttype": "none",
    # Equal results create equal files.
    "svg.hashsalt": "bulk-metadata",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def plot(results: Results, path: Path) -> None:
    """Draw latencies and request rates into the SVG file at ``path``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        latency, *rates = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
        plot_latency(latency, results)
        largest = results.load[WORKLOADS[-1]]
        titles = [title for title in largest if title not in (THIS, EMPTY_VIEW.title)]
        titles.sort(key=lambda title: -largest[title].rate)
        for axes, workload in zip(rates, (WORKLOADS[0], WORKLOADS[-1]), strict=True):
            values = {
                title: load.rate for title, load in results.load[workload].items()
            }
            plot_rates(axes, [THIS, *titles], values, f"{workload}: requests/s")
        rates[-1].set_yticks([])
        figure.savefig(path, transparent=True, metadata={"Date": None})


def plot_latency(axes: Axes, results: Results) -> None:
    """Draw the latency by batch size, with one line per fleet."""
    for number, fleet in enumerate(results.fleets):
        opacity = 1 - 0.6 * number / len(results.fleets)
        for name, color, line in ((SERVICE, OWN, "-"), (BASELINE, INK, "--")):
            axes.plot(
                results.batches,
                [
                    results.baseline[fleet, batch][name].median
                    for batch in results.batches
                ],
                line,
                color=color,
                alpha=opacity,
                marker=".",
                label=f"{name}, fleet of {fleet:,}",
            )
    axes.set(xscale="log", yscale="log", xlabel="devices per request")
    axes.set_xticks(results.batches)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.10g}")
    axes.set_title("Latency: ms", loc="left", fontsize=9)
    # Leave space for the legend above the lines.
    axes.set_ylim(top=axes.get_ylim()[1] * 8)
    axes.legend(fontsize=7, loc="upper left")


def plot_rates(
    axes: Axes, titles: list[str], values: Mapping[str, float], caption: str
) -> None:
    """Draw a labeled bar for each of ``titles``, the first one on top."""
    bars = axes.barh(
        titles,
        [values[title] for title in titles],
        color=[OWN if title == THIS else INK for title in titles],
        height=0.6,
    )
    axes.bar_label(bars, [f"{values[title]:,.0f}" for title in titles], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_title(caption, loc="left", fontsize=9)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
