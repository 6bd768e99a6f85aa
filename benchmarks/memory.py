"""A worker's memory: at rest, after many requests, and during a large one."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from benchmarks.client import Client
from benchmarks.fleet import Fleet, body
from benchmarks.limit import BATCHES
from tests.support.service import run_service

MB = 1024 * 1024
# The largest body that the service takes by default, less some room for identifiers.
LARGE_BODY = 10 * MB - 100_000


@dataclass(frozen=True)
class Memory:
    """Resident memory of a worker, in MiB."""

    at_rest: float
    requests: int
    after_requests: float
    large_body: float
    peak: float

    @property
    def times_the_body(self) -> float:
        """What the large body cost, as a multiple of its size."""
        return (self.peak - self.after_requests) / self.large_body


def measure_memory(
    service_url: str, fleet: Fleet, requests: int, folder: Path
) -> Memory:
    """Measure the only worker of a new service."""
    settings = {"DATABASE_URL": service_url, "WORKERS": "1"}
    with (
        run_service(folder / "memory.log", **settings) as service,
        Client(service.port, fleet.key) as client,
    ):
        client.call(body(fleet.documents(1)))
        [worker] = psutil.Process(service.process.pid).children()
        at_rest = resident(worker)
        numbers = range(requests)
        with click.progressbar(numbers, label="Mixed requests") as progress:
            for _ in progress:
                batch = min(random.choice(BATCHES), fleet.size)
                client.call(body(fleet.documents(batch)))
        after = resident(worker)
        large = large_body(fleet)
        forget_peak(worker)
        client.call(large)
        return Memory(at_rest, requests, after, len(large) / MB, peak(worker))


def large_body(fleet: Fleet) -> bytes:
    """Return a body near the limit, in which the devices share the room alike."""
    documents = fleet.documents(min(1000, fleet.size))
    note = "x" * (LARGE_BODY // len(documents) - 50)
    return body({key: json.dumps({"note": note}) for key in documents})


def resident(process: psutil.Process) -> float:
    """Return what ``process`` holds in memory, in MiB."""
    return float(process.memory_info().rss) / MB


def peak(process: psutil.Process) -> float:
    """Return the most that ``process`` held since forget_peak, in MiB: proc(5)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def forget_peak(process: psutil.Process) -> None:
    """Start anew to note the most that ``process`` holds: 5 means that in proc(5)."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
