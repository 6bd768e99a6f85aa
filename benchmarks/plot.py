"""The plot: an SVG that can be read on white and on black."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.comparison import THIS
from benchmarks.limit import BARE, SERVICE
from benchmarks.results import Results

# Of middling brightness, so that nothing drowns in a light or a dark page.
INK = "#808890"
OWN = "#2f9e6e"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "legend.frameon": False,
    # Text stays text: it can be searched, and needs no font of ours.
    "svg.fonttype": "none",
    # The same figures make the same file.
    "svg.hashsalt": "bulk-metadata",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def plot(results: Results, path: Path) -> None:
    """Draw latency and throughput into the SVG file at ``path``."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        first, second, third = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
        plot_growth(first, results)
        most = results.batches[-1]
        latency = {
            title: each.median
            for title, each in results.comparison.latency[most].items()
        }
        names = sorted(latency, key=lambda name: (name != THIS, latency[name]))
        plot_bars(second, names, latency, f"{most:,} devices: ms, logarithmic")
        second.set_xscale("log")
        rates = {
            t: load.devices_per_second
            for t, load in results.comparison.disjoint.items()
        }
        plot_bars(third, names, rates, "8 clients: devices/s")
        third.set_yticks([])
        figure.savefig(path, transparent=True, metadata={"Date": None})


def plot_growth(axes: Axes, results: Results) -> None:
    """Draw latency against the size of the call, for each size of fleet."""
    for number, fleet in enumerate(results.fleets):
        strength = 1 - 0.6 * number / len(results.fleets)
        for name, color, line in ((SERVICE, OWN, "-"), (BARE, INK, "--")):
            axes.plot(
                results.batches,
                [results.limit[fleet, batch][name].median for batch in results.batches],
                line,
                color=color,
                alpha=strength,
                marker=".",
                label=f"{name}, fleet of {fleet:,}",
            )
    axes.set(xscale="log", yscale="log", xlabel="devices in a call")
    axes.set_xticks(results.batches)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:,.10g}")
    axes.set_title("Latency: ms", loc="left", fontsize=9)
    # Room for the legend above the lines.
    axes.set_ylim(top=axes.get_ylim()[1] * 8)
    axes.legend(fontsize=7, loc="upper left")


def plot_bars(
    axes: Axes, names: list[str], values: Mapping[str, float], title: str
) -> None:
    """Draw a bar for each of ``names``, the first one on top, with its figure."""
    bars = axes.barh(
        names,
        [values[name] for name in names],
        color=[OWN if name == THIS else INK for name in names],
        height=0.6,
    )
    axes.bar_label(bars, [f"{values[name]:,.0f}" for name in names], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.3)
    axes.set_title(title, loc="left", fontsize=9)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
