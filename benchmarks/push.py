"""``make bench-push``: check, upload, import and export a fleet in a file.

The baseline of the upload is the UPDATE of the same batches, one after another over one
connection. The baseline of the export is COPY. The commands run as separate processes,
from the input file to the output file.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

import click
import psutil
from psycopg2.extensions import connection as Connection

from benchmarks.baseline import format_values
from benchmarks.database import Documents, Fleet, create_fleets, documents, postgres
from benchmarks.memory import peak
from benchmarks.report.sections import table
from bulk_metadata.config import Config
from bulk_metadata.core.limits import MAX_DEVICES
from bulk_metadata.db.accounts import create_organization
from bulk_metadata.db.connection import connect_service
from tests.support.cluster import Cluster
from tests.support.service import ROOT, run_service

# Seconds between two readings of the memory of a command.
MEMORY_INTERVAL = 0.05

COPY_DEVICES = "COPY (SELECT identifier, device_metadata FROM devices) TO STDOUT"

HEADER = "identifier,firmwareVersion,status,location.building,battery:number\n"
ROW = "SN-{:08},3.2.1,active,Building A,98.60\n"


class Usage(NamedTuple):
    """The duration of a step in seconds, and its peak memory in MiB, if measured."""

    seconds: float
    memory: float | None = None


def batches(fleet: Fleet) -> Iterator[Documents]:
    """Yield new metadata for the fleet, in the order of the identifiers."""
    for first in range(0, fleet.size, MAX_DEVICES):
        yield documents(range(first, min(first + MAX_DEVICES, fleet.size)))


def write_ndjson(fleet: Fleet, path: Path) -> None:
    """Write new metadata for the fleet as NDJSON."""
    with path.open("w") as file:
        for batch in batches(fleet):
            for identifier, text in batch.items():
                file.write(f'{{"identifier": "{identifier}", "metadata": {text}}}\n')


def write_csv(devices: int, path: Path) -> None:
    """Write a table of five columns, with one row per device."""
    with path.open("w") as file:
        file.write(HEADER)
        file.writelines(ROW.format(number) for number in range(devices))


def run_updates(connection: Connection, fleet: Fleet) -> Usage:
    """Measure the baseline of an upload, without its formatting."""
    format_statement = format_values(connection, fleet)
    seconds = 0.0
    for batch in batches(fleet):
        text = format_statement(batch)
        with connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(text)
            cursor.fetchall()
            seconds += time.perf_counter() - start
    return Usage(seconds)


def run_copy(server: Cluster, path: Path) -> Usage:
    """Measure the baseline of an export."""
    with (
        closing(server.connect()) as connection,
        connection.cursor() as cursor,
        path.open("w") as file,
    ):
        start = time.perf_counter()
        cursor.copy_expert(COPY_DEVICES, file)
        return Usage(time.perf_counter() - start)


def run_command(*arguments: str | Path, **variables: str) -> Usage:
    """Measure a module of Python. Raises ClickException if it fails."""
    command = [sys.executable, "-m", *map(str, arguments)]
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory = 0.0
    while process.poll() is None:
        with suppress(ValueError):  # the process has just exited
            memory = peak(psutil.Process(process.pid))
        time.sleep(MEMORY_INTERVAL)
    if process.returncode:
        raise click.ClickException(
            f"{' '.join(command)} failed with exit code {process.returncode}."
        )
    return Usage(time.perf_counter() - start, memory)


def run_client(*arguments: str | Path, **variables: str) -> Usage:
    """Measure a command of the client."""
    return run_command("bulk_metadata.client", *arguments, **variables)


def steps(
    server: Cluster, fleet: Fleet, directory: Path, stack: ExitStack
) -> dict[str, Callable[[], Usage]]:
    """Return the steps of a round."""
    ndjson, table = directory / "fleet.ndjson", directory / "fleet.csv"
    write_ndjson(fleet, ndjson)
    write_csv(fleet.size, table)
    config = Config(database_url=server.service_url)
    connection = stack.enter_context(closing(connect_service(config)))
    owner = stack.enter_context(closing(server.connect()))
    settings = {"DATABASE_URL": server.service_url}
    service = stack.enter_context(run_service(directory / "log", **settings))
    numbers = count(1)

    def push() -> Usage:
        url = f"http://127.0.0.1:{service.port}"
        return run_client("push", ndjson, "--url", url, BULK_METADATA_API_KEY=fleet.key)

    def import_devices() -> Usage:
        name = f"Import {next(numbers)}"
        with owner.cursor() as cursor:
            organization = create_organization(cursor, name)
            usage = run_command(
                "flask", "import-devices", name, ndjson, DATABASE_URL=server.url
            )
            # The next export must contain only the fleet.
            delete = "DELETE FROM devices WHERE organization_id = %s"
            cursor.execute(delete, (organization,))
            cursor.execute("VACUUM devices")
        return usage

    def export_devices() -> Usage:
        name, output = f"Fleet of {fleet.size}", directory / "export.ndjson"
        return run_command(
            "flask", "export-devices", name, output, DATABASE_URL=server.url
        )

    return {
        "check, NDJSON": lambda: run_client("check", ndjson),
        "check, CSV": lambda: run_client("check", table),
        "baseline of push: UPDATE": lambda: run_updates(connection, fleet),
        "push, NDJSON": push,
        "import, NDJSON": import_devices,
        "baseline of export: COPY": lambda: run_copy(server, directory / "copy"),
        "export, NDJSON": export_devices,
    }


@click.command()
@click.option("--devices", default=1_000_000, show_default=True)
@click.option("--rounds", default=2, show_default=True)
def main(devices: int, rounds: int) -> None:
    """Measure each step in each round, and print the medians."""
    click.echo(f"Creating {devices:,} devices ...")
    with (
        tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as name,
        postgres() as server,
        ExitStack() as stack,
    ):
        [fleet] = create_fleets(server, (devices,))
        usages: dict[str, list[Usage]] = {}
        for step, run in rounds * list(steps(server, fleet, Path(name), stack).items()):
            usages.setdefault(step, []).append(run())
            click.echo(f"{step}: {usages[step][-1].seconds:.1f} s")
    rows = []
    for step, found in usages.items():
        seconds = statistics.median(usage.seconds for usage in found)
        memory = max(usage.memory or 0 for usage in found)
        rows.append(
            (
                step,
                f"{seconds:.1f}",
                f"{devices / seconds:,.0f}",
                f"{memory:.0f}" if memory else "",
            )
        )
    click.echo("\n" + table(("step", "seconds", "devices/s", "peak MiB"), rows))


if __name__ == "__main__":
    main()
