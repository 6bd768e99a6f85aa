"""The report: RESULTS.md."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.alternatives import CONNECTIONS, WORKERS
from benchmarks.database import SETTINGS
from benchmarks.load.generator import GENERATOR
from benchmarks.report.results import Results
from benchmarks.report.sections import (
    baseline,
    breakdown,
    citus,
    goals,
    history,
    load,
    memory,
    wrap,
)

GIB = 1024**3


def write_report(results: Results, command: str) -> str:
    """Return the report in Markdown."""
    sections = [
        head(results, command),
        goals(results),
        baseline(results),
        load(results),
        breakdown(results),
        history(results),
        citus(results),
        memory(results),
    ]
    return "\n".join(sections)


def head(results: Results, command: str) -> str:
    """Return the date, the method, and the environment of the run."""
    packages = ("gunicorn", "flask", "psycopg2-binary", "msgspec")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    settings = ", ".join(f"`{name} = {value}`" for name, value in SETTINGS.items())
    ram = psutil.virtual_memory().total / GIB
    text = f"""
This page shows the latency, request rate and memory of the service, for operators who
plan capacity and developers who change the request path. `{command}` created it on
{time.strftime("%Y-%m-%d")}. All implementations are measured in interleaved rounds, so
that noise affects them equally. Ratios are portable to other machines, times are not.
"""
    return f"""# Results

{wrap(text)}

- {processor()}, {os.cpu_count()} cores, {ram:.0f} GiB, {platform.system()} \
{platform.release()}. Clients, service and PostgreSQL share this machine.
- Python {platform.python_version()}, {versions}; {WORKERS} workers with \
{CONNECTIONS} threads each.
- {results.postgres}: {settings}; otherwise default settings.
- Load generator: {GENERATOR}.
- The metadata of a device has about 200 bytes, a body for 1,000 devices about 230 kB.

![Latency and request rates](results.svg)
"""


def processor() -> str:
    """Return the name of the processor from /proc/cpuinfo."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
