"""The memory of a worker: idle, after many requests, and during a large request."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from benchmarks.baseline import BATCHES
from benchmarks.client import Client
from benchmarks.database import Fleet, body
from bulk_metadata.core.limits import DEFAULT_MAX_BODY_BYTES, MAX_DEVICES
from tests.support.service import run_service

MB = 1024 * 1024
# Bytes of metadata in the large request: the limit minus the identifiers.
LARGE_BODY = DEFAULT_MAX_BODY_BYTES - 100_000


@dataclass(frozen=True)
class Memory:
    """The resident memory of a worker, in MiB."""

    idle: float
    requests: int
    after_requests: float
    large_body: float
    peak: float

    @property
    def body_ratio(self) -> float:
        """The memory for the large request as a multiple of its size."""
        return (self.peak - self.after_requests) / self.large_body


def measure_memory(
    service_url: str, fleet: Fleet, requests: int, directory: Path
) -> Memory:
    """Measure the only worker of a new service."""
    settings = {"DATABASE_URL": service_url, "WORKERS": "1"}
    with (
        run_service(directory / "memory.log", **settings) as service,
        Client(service.port, fleet.key) as client,
    ):
        client.send(body(fleet.documents(1)))
        [worker] = psutil.Process(service.process.pid).children()
        idle = resident(worker)
        with click.progressbar(range(requests), label="Mixed requests") as progress:
            for _ in progress:
                batch = min(random.choice(BATCHES), fleet.size)
                client.send(body(fleet.documents(batch)))
        after = resident(worker)
        large = large_body(fleet)
        reset_peak(worker)
        client.send(large)
        return Memory(idle, requests, after, len(large) / MB, peak(worker))


def large_body(fleet: Fleet) -> bytes:
    """Return a body just below the limit, divided equally among the devices."""
    documents = fleet.documents(min(MAX_DEVICES, fleet.size))
    note = "x" * (LARGE_BODY // len(documents) - 50)
    return body({key: json.dumps({"note": note}) for key in documents})


def resident(process: psutil.Process) -> float:
    """Return the resident memory of ``process`` in MiB."""
    return float(process.memory_info().rss) / MB


def peak(process: psutil.Process) -> float:
    """Return the peak of the resident memory since reset_peak in MiB: proc(5)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def reset_peak(process: psutil.Process) -> None:
    """Reset the peak of the resident memory: proc(5) defines 5 as this command."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
