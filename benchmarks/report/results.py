"""The results of a run, and its goals."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.alternatives import EMPTY_VIEW, FASTAPI, FLASK
from benchmarks.baseline import BASELINE, SERVICE
from benchmarks.breakdown import Breakdown
from benchmarks.load.workloads import Load, Workload
from benchmarks.measure import Sample
from benchmarks.memory import Memory
from benchmarks.servers import WITH, WITHOUT, CitusSample

THIS = "this service"
NO_RIVALS = (THIS, EMPTY_VIEW.title)

# The required ratio of the request rates. Larger requests must be faster than the
# fastest alternative.
REQUIRED = {
    Workload(1): {FASTAPI: 1.0, FLASK: 1.3},
    Workload(10): {FASTAPI: 1.0, FLASK: 1.5},
}


@dataclass(frozen=True)
class Results:
    """All results of a run. Times are in milliseconds."""

    postgres: str
    # By fleet size and batch.
    baseline: dict[tuple[int, int], dict[str, Sample]]
    # By workload and title of the implementation, on the largest fleet.
    load: dict[Workload, dict[str, Load]]
    # By batch, on the largest fleet.
    breakdown: dict[int, Breakdown]
    # By batch, on the smallest fleet.
    history: dict[int, dict[str, Sample]]
    # By batch, with a fleet of the same size. Empty without Citus.
    citus: dict[int, CitusSample]
    memory: Memory

    @property
    def fleets(self) -> list[int]:
        """The fleet sizes, the smallest first."""
        return sorted({fleet for fleet, _ in self.baseline})

    @property
    def batches(self) -> list[int]:
        """The batch sizes, the smallest first."""
        return sorted({batch for _, batch in self.baseline})


@dataclass(frozen=True)
class Goal:
    """A goal, the measured value, and whether it was reached."""

    text: str
    measured: str
    reached: bool


def goals(results: Results) -> Iterator[Goal]:
    """Yield all goals."""
    yield from latency_goals(results)
    yield from load_goals(results)
    yield from history_goals(results.history)
    yield from memory_goals(results.memory)


def latency_goals(results: Results) -> Iterator[Goal]:
    """Yield the goals for one client."""
    small, large = results.fleets[0], results.fleets[-1]
    one, most = results.batches[0], results.batches[-1]
    samples = results.baseline[large, one]
    difference = samples[SERVICE].median - samples[BASELINE].median
    yield Goal(
        f"1 device of {large:,}: at most 0.8 ms over the {BASELINE}",
        f"{difference:.2f} ms",
        difference <= 0.8,
    )
    for fleet in results.fleets[1:] or results.fleets:
        samples = results.baseline[fleet, most]
        ratio = samples[SERVICE].median / samples[BASELINE].median
        yield Goal(
            f"{most:,} devices of {fleet:,}: at most 1.20 x the {BASELINE}",
            f"{ratio:.2f} x",
            ratio <= 1.2,
        )
    medians = [
        results.baseline[fleet, most][SERVICE].median for fleet in (small, large)
    ]
    growth = medians[1] / medians[0]
    yield Goal(
        f"{most:,} devices: a fleet of {large:,} at most 1.3 x as long as {small:,}",
        f"{growth:.2f} x",
        growth <= 1.3,
    )


def load_goals(results: Results) -> Iterator[Goal]:
    """Yield the goals for 8 connections: ratios of request rates."""
    for workload, loads in results.load.items():
        rates = {
            title: load.rate for title, load in loads.items() if title not in NO_RIVALS
        }
        if workload.devices >= 100 and rates:
            fastest = max(rates, key=rates.__getitem__)
            required = {fastest: 1.0}
        else:
            required = {
                title: ratio
                for title, ratio in REQUIRED.get(workload, {}).items()
                if title in rates
            }
        for title, least in required.items():
            ratio = loads[THIS].rate / max(rates[title], 0.1)
            yield Goal(
                f"{workload}: at least {least} x the request rate of {title}",
                f"{ratio:.2f} x",
                ratio >= least,
            )
    errors = sum(loads[THIS].errors for loads in results.load.values())
    yield Goal("all requests: no errors", f"{errors} errors", errors == 0)


def history_goals(history: dict[int, dict[str, Sample]]) -> Iterator[Goal]:
    """Yield the goals for the cost of the history."""
    (one, single), (most, many) = sorted(history.items())
    difference = single[WITH].median - single[WITHOUT].median
    yield Goal(
        f"{one} device {WITH}: at most 0.15 ms more than without",
        f"{difference:.2f} ms",
        difference <= 0.15,
    )
    ratio = many[WITH].median / many[WITHOUT].median
    yield Goal(
        f"{most:,} devices {WITH}: at most 1.3 x as long as without",
        f"{ratio:.2f} x",
        ratio <= 1.3,
    )


def memory_goals(memory: Memory) -> Iterator[Goal]:
    """Yield the goals for the memory of a worker."""
    growth = memory.after_requests - memory.idle
    yield Goal(
        "idle worker: at most 60 MiB", f"{memory.idle:.0f} MiB", memory.idle <= 60
    )
    yield Goal(
        f"worker after {memory.requests:,} mixed requests: at most 10 MiB more",
        f"{growth:.0f} MiB more",
        growth <= 10,
    )
    yield Goal(
        "a body of 10 MB for 1,000 devices: at most 4 x its size",
        f"{memory.body_ratio:.1f} x",
        memory.body_ratio <= 4,
    )
