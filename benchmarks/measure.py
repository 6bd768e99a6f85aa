"""Interleaved measurement: each round runs all subjects in random order, so that noise
affects all subjects equally."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.client import Client
from benchmarks.database import Documents, Fleet, body

# Replaces the metadata of devices and returns the duration in seconds.
Subject = Callable[[Documents], float]

WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Sample:
    """The durations of one subject, in milliseconds."""

    median: float
    p99: float


def measure_interleaved(
    subjects: Mapping[str, Subject], fleet: Fleet, batch: int, rounds: int
) -> dict[str, Sample]:
    """Measure ``subjects`` on ``batch`` random devices of ``fleet`` in each round."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in random.sample(list(subjects), len(subjects)):
            seconds = subjects[name](fleet.documents(batch))
            if number >= WARM_UP_ROUNDS:
                times[name].append(seconds * 1000)
    return {name: sample(each) for name, each in times.items()}


def sample(times: list[float]) -> Sample:
    """Return the median and the 99th percentile of ``times``."""
    ordered = sorted(times)
    return Sample(statistics.median(ordered), ordered[len(ordered) * 99 // 100])


def over_http(client: Client) -> Subject:
    """Return a subject that sends one HTTP request."""

    def send(documents: Documents) -> float:
        text = body(documents)
        start = time.perf_counter()
        updated = client.send(text)
        seconds = time.perf_counter() - start
        require_updated(updated, len(documents))
        return seconds

    return send


def require_updated(updated: int, count: int) -> None:
    """Raise RuntimeError unless all devices were updated."""
    if updated != count:
        raise RuntimeError(f"Expected {count} updated devices, got {updated}.")
