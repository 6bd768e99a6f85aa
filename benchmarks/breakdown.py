"""A breakdown of one request: the sampling profiler py-spy records in which step the
threads of a worker are while one client sends requests."""

import subprocess
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

import click
import psutil

from benchmarks.client import Client
from benchmarks.database import Fleet, body
from tests.support.service import run_service

# A sample belongs to the first step with a pattern that occurs in its stack.
STEPS = [
    ("write the log entry", ("telemetry/access_log.py",)),
    ("count the metrics", ("telemetry/metrics.py", "prometheus_client/")),
    (
        "parse HTTP (gunicorn)",
        ("gunicorn/http/parser.py", "gunicorn/http/body.py", "request_reader.py"),
    ),
    ("create the WSGI environment (gunicorn)", ("create (gunicorn/http/wsgi.py",)),
    ("look up the API key (psycopg2, PostgreSQL)", ("authenticate (",)),
    ("run the UPDATE (psycopg2, PostgreSQL)", ("bulk_metadata/db/",)),
    ("read and parse the body", ("api/request.py",)),
    ("validate the devices", ("api/validation.py",)),
    ("create the results, encode JSON", ("api/response.py",)),
    ("send the response (gunicorn)", ("gunicorn/http/wsgi.py",)),
    ("route and dispatch (Flask, Werkzeug)", ("flask/app.py",)),
    (
        "schedule the connection (gunicorn)",
        ("ThreadWorker.handle (", "ThreadWorker.enqueue_req ("),
    ),
]
# A thread that waits for the next request.
WAITING = "wait_for_head ("
REMAINDER = "thread handover, loopback, client"

# Samples per second.
RATE = 500

# Milliseconds by step.
Breakdown = dict[str, float]


def measure_breakdown(
    service_url: str, fleet: Fleet, batches: list[int], seconds: int, directory: Path
) -> dict[int, Breakdown]:
    """Return the breakdown of a request for each of ``batches``.

    The result is empty if the operating system does not allow py-spy to attach.
    """
    settings = {"DATABASE_URL": service_url, "WORKERS": "1"}
    with (
        run_service(directory / "breakdown.log", **settings) as service,
        Client(service.port, fleet.key) as client,
    ):
        client.send(body(fleet.documents(1)))  # The worker has started.
        [worker] = psutil.Process(service.process.pid).children()
        try:
            return {
                batch: profile(
                    worker.pid, client, fleet, batch, seconds, directory / "stacks"
                )
                for batch in batches
            }
        except PermissionError as error:
            click.echo(f"No breakdown: {error}")
            return {}


def profile(
    pid: int, client: Client, fleet: Fleet, batch: int, seconds: int, output: Path
) -> Breakdown:
    """Profile the worker ``pid`` while ``client`` sends requests."""
    bodies = cycle([body(fleet.documents(batch)) for _ in range(40)])
    command = [
        *(str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid)),
        *("--rate", str(RATE), "--duration", str(seconds), "--output", str(output)),
        # Waits for PostgreSQL count as well. Do not suspend the worker for a sample.
        *("--format", "raw", "--threads", "--idle", "--nonblocking"),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        start = time.perf_counter()
        requests = 0
        while process.poll() is None:
            client.send(next(bodies))
            requests += 1
        milliseconds = (time.perf_counter() - start) * 1000 / requests
        errors = process.stderr.read() if process.stderr else ""
    if process.returncode:
        raise PermissionError(errors.strip())
    return break_down(output.read_text(), milliseconds)


def break_down(stacks: str, milliseconds: float) -> Breakdown:
    """Divide the duration of a request in proportion to the samples of each step."""
    counts: Counter[str] = Counter()
    instants = 0
    for line in stacks.splitlines():
        stack, _, text = line.rpartition(" ")
        count = int(text)
        if "MainThread" in stack:
            instants += count  # each sample contains the main thread once
        if step := step_of(stack):
            counts[step] += count
    found = {step: counts[step] / instants * milliseconds for step, _ in STEPS}
    return {**found, REMAINDER: milliseconds - sum(found.values())}


def step_of(stack: str) -> str | None:
    """Return the step that ``stack`` belongs to; None if its thread is waiting."""
    for step, patterns in STEPS:
        if WAITING not in stack and any(pattern in stack for pattern in patterns):
            return step
    return None
