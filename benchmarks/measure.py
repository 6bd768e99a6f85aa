"""Measuring side by side: every round runs all subjects, in random order, so that the
machine's noise meets all of them alike."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg2.extensions import connection as Connection

from benchmarks.client import Client
from benchmarks.fleet import Documents, Fleet, body

# Replaces the metadata of devices; returns how many seconds that took.
Subject = Callable[[Documents], float]

WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Sample:
    """What one subject took, in milliseconds."""

    median: float
    p99: float


def side_by_side(
    subjects: Mapping[str, Subject], fleet: Fleet, batch: int, rounds: int
) -> dict[str, Sample]:
    """Measure ``subjects`` on ``batch`` random devices of ``fleet`` at a time."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name in random.sample(list(subjects), len(subjects)):
            seconds = subjects[name](fleet.documents(batch))
            if number >= WARM_UP_ROUNDS:
                times[name].append(seconds * 1000)
    return {name: sample(each) for name, each in times.items()}


def sample(times: list[float]) -> Sample:
    """Return median and 99th percentile of ``times``."""
    ordered = sorted(times)
    return Sample(statistics.median(ordered), ordered[len(ordered) * 99 // 100])


def over_http(client: Client) -> Subject:
    """Return a subject that makes one HTTP request."""

    def call(documents: Documents) -> float:
        text = body(documents)
        start = time.perf_counter()
        updated = client.call(text)
        seconds = time.perf_counter() - start
        expect(updated, len(documents))
        return seconds

    return call


def one_by_one(client: Client) -> Subject:
    """Return a subject that makes a small HTTP request for each device."""

    def call(documents: Documents) -> float:
        texts = [body({key: text}) for key, text in documents.items()]
        start = time.perf_counter()
        updated = sum(map(client.call, texts))
        seconds = time.perf_counter() - start
        expect(updated, len(documents))
        return seconds

    return call


def statement(connection: Connection, write: Callable[[Documents], bytes]) -> Subject:
    """Return a subject that sends one statement, written out beforehand."""

    def execute(documents: Documents) -> float:
        text = write(documents)
        with connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(text)
            rows = cursor.fetchall()
            seconds = time.perf_counter() - start
        expect(len(rows), len(documents))
        return seconds

    return execute


def expect(updated: int, count: int) -> None:
    """Raise RuntimeError unless all devices were updated: else nothing was measured."""
    if updated != count:
        raise RuntimeError(f"{updated} of {count} devices were updated.")
