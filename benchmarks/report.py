"""The report: RESULTS.md, written by the run itself."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.comparison import CONNECTIONS, WORKERS
from benchmarks.database import SETTINGS
from benchmarks.results import Results
from benchmarks.sections import budget, goals_reached, limit, memory, peers, storage

GIB = 1024**3


def report(results: Results, command: str) -> str:
    """Return all of the report, in Markdown."""
    sections = [
        head(results.postgres, command),
        goals_reached(results),
        limit(results),
        budget(results),
        peers(results),
        memory(results),
        storage(results),
    ]
    return "\n".join(sections)


def head(postgres: str, command: str) -> str:
    """Return where and how this was measured."""
    packages = ("gunicorn", "flask", "psycopg2-binary", "msgspec")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    settings = ", ".join(f"`{name} = {value}`" for name, value in SETTINGS.items())
    ram = psutil.virtual_memory().total / GIB
    return f"""# Results

Written by `{command}` on {time.strftime("%Y-%m-%d")}. Times are medians, in
milliseconds, of calls over loopback in rounds in which every subject has its turn, so
that noise meets all of them alike. Ratios travel to other machines, times do not.

- {processor()}, {os.cpu_count()} cores, {ram:.0f} GiB, {platform.system()} \
{platform.release()}: clients, service and PostgreSQL share them.
- Python {platform.python_version()}, {versions}; {WORKERS} workers with \
{CONNECTIONS} threads.
- {postgres}: {settings}; otherwise its defaults.
- A device's metadata is some 200 bytes; a call for 1,000 devices has about 230 kB.

![Latency and throughput](results.svg)
"""


def processor() -> str:
    """Return the processor's name, as Linux knows it."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()
