"""What a run has measured, and whether that reaches the goals."""

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.comparison import ONE_BY_ONE, THIS, Comparison
from benchmarks.limit import BARE, SERVICE
from benchmarks.measure import Sample
from benchmarks.memory import Memory
from benchmarks.peers import DJANGO
from benchmarks.storage import Storage


@dataclass(frozen=True)
class Results:
    """All figures of a run. Times are in milliseconds."""

    postgres: str
    # By fleet size and batch: bare statements and the service.
    limit: dict[tuple[int, int], dict[str, Sample]]
    # By step, of the largest batch on the largest fleet.
    budget: dict[str, float]
    comparison: Comparison
    memory: Memory
    storage: Storage

    @property
    def fleets(self) -> list[int]:
        """The fleets' sizes, the smallest first."""
        return sorted({fleet for fleet, _ in self.limit})

    @property
    def batches(self) -> list[int]:
        """The sizes of the calls, the smallest first."""
        return sorted({batch for _, batch in self.limit})


@dataclass(frozen=True)
class Goal:
    """Something to be reached, and what was measured."""

    what: str
    measured: str
    reached: bool


def goals(results: Results) -> Iterator[Goal]:
    """Yield the goals in the words of the report."""
    small, large = results.fleets[0], results.fleets[-1]
    one, most = results.batches[0], results.batches[-1]
    for fleet in results.fleets[1:] or results.fleets:
        both = results.limit[fleet, most]
        ratio = both[SERVICE].median / both[BARE].median
        yield Goal(
            f"{most:,} devices of {fleet:,}: at most 1.25 x the bare UPDATE",
            f"{ratio:.2f} x",
            ratio <= 1.25,
        )
    both = results.limit[large, one]
    above = both[SERVICE].median - both[BARE].median
    yield Goal(
        f"one device of {large:,}: at most 1.0 ms above the bare UPDATE",
        f"{above:.2f} ms",
        above <= 1.0,
    )
    service = [results.limit[fleet, most][SERVICE].median for fleet in (small, large)]
    growth = service[1] / service[0]
    yield Goal(
        f"a fleet of {large:,} against one of {small:,}: at most 1.3 x",
        f"{growth:.2f} x",
        growth <= 1.3,
    )
    yield from goals_beside_peers(results.comparison, most)
    yield from goals_of_resources(results.memory, results.storage)


def goals_beside_peers(found: Comparison, most: int) -> Iterator[Goal]:
    """Yield the goals that are about the peers, as far as those could be had."""
    medians = {title: each.median for title, each in found.latency[most].items()}
    rates = {title: load.devices_per_second for title, load in found.disjoint.items()}
    service, rate = medians[THIS], rates[THIS]
    for title in [title for title in medians if title not in (THIS, ONE_BY_ONE)]:
        yield Goal(
            f"{most:,} devices: faster than {title}",
            f"{service:.1f} against {medians[title]:.1f} ms",
            service < medians[title],
        )
        yield Goal(
            f"8 clients: more than {title}",
            f"{rate:,.0f} against {rates[title]:,.0f} devices/s",
            rate > rates[title],
        )
    for title in found.disjoint.keys() & {DJANGO}:
        ratio = medians[title] / service
        yield Goal(
            f"{most:,} devices: at least 5 x {title}", f"{ratio:.1f} x", ratio >= 5
        )
    errors = {title: found.errors(title) for title in found.disjoint}
    own = errors.pop(THIS) + errors.pop(ONE_BY_ONE)
    yield Goal(
        "8 clients: no error, whether they overlap or not",
        f"{own}, the peers {sum(errors.values()):,}",
        own == 0,
    )


def goals_of_resources(memory: Memory, storage: Storage) -> Iterator[Goal]:
    """Yield the goals that are about memory and storage."""
    yield Goal(
        "a worker at rest: at most 60 MiB",
        f"{memory.at_rest:.0f} MiB",
        memory.at_rest <= 60,
    )
    grown = memory.after_requests - memory.at_rest
    yield Goal(
        f"flat over {memory.requests:,} mixed requests: at most 10 MiB more",
        f"{grown:.0f} MiB more",
        grown <= 10,
    )
    yield Goal(
        "a body of 10 MB for 1,000 devices: at most 5 x its size",
        f"{memory.times_the_body:.1f} x",
        memory.times_the_body <= 5,
    )
    yield Goal(
        f"{storage.rewrites} rewrites in order: more than 95 % heap-only",
        f"{storage.hot_share:.1%}",
        storage.hot_share > 0.95,
    )
