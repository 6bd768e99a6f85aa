"""Many clients at once: devices per second, and calls that fail."""

import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from benchmarks.client import Client, Refused
from benchmarks.fleet import Fleet, body, documents

CLIENTS = 8
# Each client sends these again and again.
BODIES = 5
# The devices that all clients name when they overlap.
SHARED = 3000


@dataclass(frozen=True)
class Bursts:
    """The load goes round in bursts, a subject after the other."""

    count: int
    seconds: float


@dataclass
class Load:
    """What a subject did under load, over all its bursts."""

    devices: int = 0
    errors: int = 0
    seconds: float = 0

    @property
    def devices_per_second(self) -> float:
        """Devices that an answer said were updated."""
        return self.devices / self.seconds


def measure_load(
    ports: Mapping[str, tuple[int, int]],
    fleet: Fleet,
    overlapping: bool,
    bursts: Bursts,
) -> dict[str, Load]:
    """Load each subject, given by its port and its batch, with 8 clients.

    Their devices are disjoint, or ``overlapping``: picked from the same ones.
    """
    loads = {name: Load() for name in ports}
    for _ in range(bursts.count):
        for name in random.sample(list(ports), len(ports)):
            port, batch = ports[name]
            bodies = [
                prepare(fleet, client, batch, overlapping) for client in range(CLIENTS)
            ]
            burst(loads[name], port, fleet.key, bodies, bursts.seconds)
    return loads


def prepare(fleet: Fleet, client: int, batch: int, overlapping: bool) -> list[bytes]:
    """Return the bodies that ``client`` sends."""
    if overlapping:
        numbers = range(min(SHARED, fleet.size))
    else:
        numbers = range(client, fleet.size, CLIENTS)
    count = min(batch, len(numbers))
    return [body(documents(random.sample(numbers, count))) for _ in range(BODIES)]


def burst(
    load: Load, port: int, key: str, bodies: list[list[bytes]], seconds: float
) -> None:
    """Run a client for each of ``bodies``, and add what they do to ``load``."""
    start = time.monotonic()
    with ThreadPoolExecutor(len(bodies)) as executor:
        call = partial(repeat, port, key, end=start + seconds)
        for devices, errors in executor.map(call, bodies):
            load.devices += devices
            load.errors += errors
    load.seconds += time.monotonic() - start


def repeat(port: int, key: str, bodies: list[bytes], end: float) -> tuple[int, int]:
    """Send the bodies one after another until ``end``; return how many devices were
    updated, and how many calls failed."""
    devices = errors = 0
    next_body = cycle(bodies)
    while time.monotonic() < end:
        # After a call that failed the next one gets a new connection.
        try:
            with Client(port, key) as client:
                while time.monotonic() < end:
                    devices += client.call(next(next_body))
        except (Refused, OSError):
            errors += 1
    return devices, errors
