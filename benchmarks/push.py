"""``make bench-push``: upload a fleet from a file, compared with its baseline.

The baseline is the UPDATE of the same batches, one after another over one connection.
The client runs as a separate process, from the input file to the result file.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import click
import psutil
from psycopg2.extensions import connection as Connection

from benchmarks.baseline import format_values
from benchmarks.database import Documents, Fleet, create_fleets, documents, postgres
from benchmarks.memory import peak
from bulk_metadata.config import Config
from bulk_metadata.core.limits import MAX_DEVICES
from bulk_metadata.db.connection import connect_service
from tests.support.service import run_service

# Seconds between two readings of the client's memory.
MEMORY_INTERVAL = 0.05


def batches(fleet: Fleet) -> Iterator[Documents]:
    """Yield new metadata for the fleet, in the order of the identifiers."""
    for first in range(0, fleet.size, MAX_DEVICES):
        yield documents(range(first, min(first + MAX_DEVICES, fleet.size)))


def write_file(fleet: Fleet, path: Path) -> None:
    """Write new metadata for the fleet as NDJSON."""
    with path.open("w") as file:
        for batch in batches(fleet):
            for identifier, text in batch.items():
                file.write(f'{{"identifier": "{identifier}", "metadata": {text}}}\n')


def time_statements(connection: Connection, fleet: Fleet) -> float:
    """Return the duration of the baseline in seconds, without its formatting."""
    format_statement = format_values(connection, fleet)
    seconds = 0.0
    for batch in batches(fleet):
        text = format_statement(batch)
        with connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(text)
            cursor.fetchall()
            seconds += time.perf_counter() - start
    return seconds


def time_command(arguments: list[str], **variables: str) -> tuple[float, float]:
    """Return the duration of a Python command in seconds, and its peak memory in MiB.

    Raises ClickException if the command fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **variables},
        stderr=subprocess.DEVNULL,
    )
    memory = 0.0
    while process.poll() is None:
        with suppress(ValueError):  # the process has just exited
            memory = peak(psutil.Process(process.pid))
        time.sleep(MEMORY_INTERVAL)
    if process.returncode:
        raise click.ClickException(
            f"{' '.join(arguments)} failed with exit code {process.returncode}."
        )
    return time.perf_counter() - start, memory


def time_push(file: Path, port: int, key: str) -> tuple[float, float]:
    """Return the duration of an upload in seconds, and the peak memory in MiB."""
    arguments = ["bulk_metadata.client", "push", str(file), "--json"]
    url = f"http://127.0.0.1:{port}"
    return time_command([*arguments, "--url", url], BULK_METADATA_API_KEY=key)


@click.command()
@click.option("--devices", default=1_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(devices: int, rounds: int) -> None:
    """Measure the baseline and the client in turn."""
    with tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as name:
        directory = Path(name)
        click.echo(f"Creating {devices:,} devices ...")
        with postgres() as server:
            [fleet] = create_fleets(server, (devices,))
            file = directory / "fleet.ndjson"
            write_file(fleet, file)
            config = Config(database_url=server.service_url)
            log = directory / "log"
            with (
                closing(connect_service(config)) as connection,
                run_service(log, DATABASE_URL=server.service_url) as service,
            ):
                for _ in range(rounds):
                    baseline = time_statements(connection, fleet)
                    click.echo(f"baseline UPDATE {baseline:6.1f} s")
                    push, memory = time_push(file, service.port, fleet.key)
                    click.echo(
                        f"client          {push:6.1f} s, {push / baseline:.2f} x, "
                        f"{devices / push:,.0f} devices/s, {memory:.0f} MiB at most"
                    )


if __name__ == "__main__":
    main()
