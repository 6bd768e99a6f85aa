"""The load generator: wrk if it is installed, otherwise threads of this process."""

import json
import resource
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import psutil
from psycopg2.extensions import cursor as Cursor

from benchmarks.client import Client, ResponseError
from benchmarks.measure import sample
from bulk_metadata.core.limits import ENDPOINT

CONNECTIONS = 8

WRK = shutil.which("wrk")
# Threads use more CPU time per request than wrk.
GENERATOR = "wrk" if WRK else "threads of the benchmark, because wrk is not installed"

SELECT_ACTIVE = """
SELECT count(*)
  FROM pg_stat_activity
 WHERE state = 'active'
   AND backend_type = 'client backend'
   AND pid <> pg_backend_pid()
"""


class Target(NamedTuple):
    """A running implementation: its port, and the process that contains its workers."""

    port: int
    pid: int


class Burst(NamedTuple):
    """One turn of an implementation. ``p50`` and ``p99`` are in milliseconds."""

    requests: int
    errors: int
    seconds: float
    p50: float
    p99: float
    # CPU time in seconds.
    application: float = 0
    generator: float = 0


def send_burst(
    target: Target, key: str, bodies: list[bytes], seconds: int, cursor: Cursor
) -> Burst:
    """Send requests for ``seconds``, and wait until the server is idle again."""
    before = cpu_seconds(target.pid), generator_cpu()
    send = send_with_wrk if WRK else send_with_threads
    burst = send(target.port, key, bodies, seconds)
    generator = generator_cpu() - before[1]
    wait_until_idle(cursor)
    application = cpu_seconds(target.pid) - before[0]
    return burst._replace(application=application, generator=generator)


def send_with_wrk(port: int, key: str, bodies: list[bytes], seconds: int) -> Burst:
    """Send requests with wrk."""
    with tempfile.NamedTemporaryFile(suffix=".ndjson") as file:
        file.write(b"\n".join(bodies))
        file.flush()
        process = subprocess.run(
            [
                *(WRK or "wrk", f"--duration={seconds}s", "--timeout=60s"),
                *("--threads=1", f"--connections={CONNECTIONS}"),
                f"--script={Path(__file__).with_name('requests.lua')}",
                *(f"http://127.0.0.1:{port}{ENDPOINT}", "--", file.name, key),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return Burst(**json.loads(process.stdout.splitlines()[-1]))


def send_with_threads(port: int, key: str, bodies: list[bytes], seconds: int) -> Burst:
    """Send requests with threads of this process."""
    start = time.monotonic()
    end = start + seconds

    def send(first: int) -> tuple[list[float], int]:
        times: list[float] = []
        errors = 0
        turn = cycle(bodies[first:] + bodies[:first])
        while time.monotonic() < end:
            # After an error the next request uses a new connection.
            try:
                with Client(port, key) as client:
                    while (sent := time.monotonic()) < end:
                        client.send(next(turn))
                        times.append((time.monotonic() - sent) * 1000)
            except (ResponseError, OSError):
                errors += 1
        return times, errors

    with ThreadPoolExecutor(CONNECTIONS) as executor:
        results = list(executor.map(send, range(CONNECTIONS)))
    times = [each for found, _ in results for each in found]
    found = sample(times or [0.0])
    errors = sum(errors for _, errors in results)
    return Burst(len(times), errors, time.monotonic() - start, found.median, found.p99)


def wait_until_idle(cursor: Cursor) -> None:
    """Wait until the server has executed no statement for 10 checks in a row.

    After their clients have disconnected, statements may still wait for locks, and
    requests for connections.
    """
    idle = 0
    while idle < 10:
        time.sleep(0.02)
        cursor.execute(SELECT_ACTIVE)
        [[active]] = cursor.fetchall()
        idle = 0 if active else idle + 1


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its descendants."""
    process = psutil.Process(pid)
    processes = [process, *process.children(recursive=True)]
    times = [each.cpu_times() for each in processes]
    return sum(each.user + each.system for each in times)


def generator_cpu() -> float:
    """Return the CPU time of this process and of its completed children."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
