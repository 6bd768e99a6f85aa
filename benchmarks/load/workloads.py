"""Load over keep-alive connections: request rate, latency, and CPU time."""

import random
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from benchmarks.client import Client
from benchmarks.database import Fleet, body, documents
from benchmarks.load.generator import CONNECTIONS, Burst, Target, send_burst
from benchmarks.measure import require_updated

# The connections send this number of different bodies in turn.
BODIES = 40
# The number of devices that overlapping requests share.
SHARED = 3000


class Workload(NamedTuple):
    """The requests of a load test."""

    devices: int
    # Whether all requests select their devices from the same few.
    overlapping: bool = False

    def __str__(self) -> str:
        plural = "s" if self.devices > 1 else ""
        overlapping = ", overlapping" if self.overlapping else ""
        return f"{self.devices:,} device{plural}{overlapping}"


WORKLOADS = [Workload(1), Workload(10), Workload(100), Workload(1000)]
OVERLAPPING = Workload(1000, overlapping=True)


@dataclass
class Load:
    """The turns of an implementation with one workload."""

    bursts: list[Burst] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return self._requests / sum(burst.seconds for burst in self.bursts)

    @property
    def application_ms(self) -> float:
        """CPU time of the application per request, in milliseconds."""
        return self._per_request(burst.application for burst in self.bursts)

    @property
    def generator_ms(self) -> float:
        """CPU time of the load generator per request, in milliseconds."""
        return self._per_request(burst.generator for burst in self.bursts)

    @property
    def p50(self) -> float:
        """Median latency in milliseconds."""
        return statistics.median(burst.p50 for burst in self.bursts)

    @property
    def p99(self) -> float:
        """99th percentile of the latency in milliseconds."""
        return statistics.median(burst.p99 for burst in self.bursts)

    @property
    def errors(self) -> int:
        """Failed requests."""
        return sum(burst.errors for burst in self.bursts)

    @property
    def _requests(self) -> int:
        return sum(burst.requests for burst in self.bursts)

    def _per_request(self, seconds: Iterable[float]) -> float:
        return sum(seconds) * 1000 / max(self._requests, 1)


def measure_load(
    targets: Mapping[str, Target],
    fleet: Fleet,
    workload: Workload,
    rounds: int,
    seconds: int,
    cursor: Cursor,
) -> dict[str, Load]:
    """Measure each target in each round, in random order, for ``seconds``."""
    loads = {name: Load() for name in targets}
    for _ in range(rounds):
        for name in random.sample(list(targets), len(targets)):
            bodies = request_bodies(fleet, workload)
            warm_up(targets[name].port, fleet, bodies[0])
            burst = send_burst(targets[name], fleet.key, bodies, seconds, cursor)
            loads[name].bursts.append(burst)
    return loads


def request_bodies(fleet: Fleet, workload: Workload) -> list[bytes]:
    """Return the bodies for ``workload``. They are disjoint unless it overlaps."""
    if workload.overlapping:
        shared = range(min(SHARED, fleet.size))
        count = min(workload.devices, len(shared))
        return [body(documents(random.sample(shared, count))) for _ in range(BODIES)]
    count = min(workload.devices, fleet.size // CONNECTIONS)
    bodies = min(BODIES, fleet.size // count)
    numbers = random.sample(range(fleet.size), bodies * count)
    return [
        body(documents(numbers[start : start + count]))
        for start in range(0, len(numbers), count)
    ]


def warm_up(port: int, fleet: Fleet, text: bytes) -> None:
    """Send one request, and check that it updates all its devices."""
    with Client(port, fleet.key) as client:
        require_updated(client.send(text), text.count(b'"SN-'))
