"""Many clients at once: devices per second, and calls that fail."""

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.client import Client, Refused
from benchmarks.fleet import Fleet, body, documents

CLIENTS = 8
BATCH = 1000
# Each client sends these again and again.
BODIES = 5
# The devices that all clients name when they overlap.
SHARED = 3000
# Seconds; the load goes round in such bursts, a subject after the other.
BURST = 3.0


@dataclass
class Load:
    """What a subject did under load, over all its bursts."""

    devices: int = 0
    errors: int = 0
    seconds: float = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def devices_per_second(self) -> float:
        """Devices that an answer said were updated."""
        return self.devices / self.seconds


def measure_load(
    ports: Mapping[str, tuple[int, int]], fleet: Fleet, overlapping: bool, bursts: int
) -> dict[str, Load]:
    """Load each subject, given by its port and its batch, with 8 clients.

    Their devices are disjoint, or ``overlapping``: picked from the same ones.
    """
    loads = {name: Load() for name in ports}
    for _ in range(bursts):
        for name in random.sample(list(ports), len(ports)):
            port, batch = ports[name]
            burst(loads[name], port, fleet, batch, overlapping)
    return loads


def burst(load: Load, port: int, fleet: Fleet, batch: int, overlapping: bool) -> None:
    """Run all clients for a few seconds, and add what they did to ``load``."""
    bodies = [
        [
            body(documents(pick(fleet, client, batch, overlapping)))
            for _ in range(BODIES)
        ]
        for client in range(CLIENTS)
    ]
    start = time.monotonic()
    threads = [
        threading.Thread(target=repeat, args=(load, port, fleet.key, each, start))
        for each in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds += time.monotonic() - start


def pick(fleet: Fleet, client: int, batch: int, overlapping: bool) -> list[int]:
    """Return the numbers of the devices of one body."""
    if overlapping:
        return random.sample(range(min(SHARED, fleet.size)), batch)
    return random.sample(
        range(client, fleet.size, CLIENTS), min(batch, fleet.size // CLIENTS)
    )


def repeat(load: Load, port: int, key: str, bodies: list[bytes], start: float) -> None:
    """Send the bodies one after another until the burst is over."""
    devices = errors = 0
    number = 0
    while time.monotonic() - start < BURST:
        try:
            with Client(port, key) as client:
                while time.monotonic() - start < BURST:
                    number += 1
                    devices += client.call(bodies[number % len(bodies)])
        except (Refused, OSError):
            # Also after a connection that broke, the next call gets a new one.
            errors += 1
    with load.lock:
        load.devices += devices
        load.errors += errors
