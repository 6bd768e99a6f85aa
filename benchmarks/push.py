"""``make bench-push``: a whole fleet from a file, beside bare statements for it.

The bare UPDATE of the same batches, one after another on one connection, as ready text;
and the client, as a process of its own, from the file to the result file.
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

from benchmarks.database import create_fleets, postgres
from benchmarks.fleet import Documents, Fleet, documents
from benchmarks.limit import write_values
from benchmarks.memory import peak
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from tests.support.service import run_service

BATCH = 1000
# Seconds between two looks at the client's memory.
LOOK = 0.05


def batches(fleet: Fleet) -> Iterator[Documents]:
    """Yield new metadata for the whole fleet, as an export would have it."""
    for first in range(0, fleet.size, BATCH):
        yield documents(list(range(first, min(first + BATCH, fleet.size))))


def write_file(fleet: Fleet, path: Path) -> None:
    """Write it as NDJSON."""
    with path.open("w") as file:
        for batch in batches(fleet):
            for identifier, text in batch.items():
                file.write(f'{{"identifier": "{identifier}", "metadata": {text}}}\n')


def time_statements(connection: Connection, fleet: Fleet) -> float:
    """Return the seconds that the bare statements take, their writing left out."""
    write = write_values(connection, fleet)
    seconds = 0.0
    for batch in batches(fleet):
        text = write(batch)
        with connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(text)
            cursor.fetchall()
            seconds += time.perf_counter() - start
    return seconds


def time_push(file: Path, port: int, key: str) -> tuple[float, float]:
    """Return the seconds that the client takes in all, and its most memory in MiB."""
    command = [sys.executable, "-m", "bulk_metadata.client", "push", str(file)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--url", f"http://127.0.0.1:{port}", "--json"],
        env={**os.environ, "BULK_METADATA_API_KEY": key},
        stderr=subprocess.DEVNULL,
    )
    most = 0.0
    while process.poll() is None:
        with suppress(ValueError):  # it has ended in this very moment
            most = peak(psutil.Process(process.pid))
        time.sleep(LOOK)
    if process.returncode:
        raise click.ClickException(f"The client ended with {process.returncode}.")
    return time.perf_counter() - start, most


@click.command()
@click.option("--devices", default=1_000_000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
def main(devices: int, rounds: int) -> None:
    """Measure both, in turn, for a fleet of so many devices."""
    with tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as name:
        folder = Path(name)
        click.echo(f"Creating a fleet of {devices:,} devices ...")
        with postgres() as server:
            [fleet] = create_fleets(server, (devices,))
            file = folder / "fleet.ndjson"
            write_file(fleet, file)
            config = Config(database_url=server.service_url)
            with (
                closing(connect_service(config)) as connection,
                run_service(folder / "log", DATABASE_URL=server.service_url) as service,
            ):
                for _ in range(rounds):
                    bare = time_statements(connection, fleet)
                    click.echo(f"bare statements {bare:6.1f} s")
                    push, most = time_push(file, service.port, fleet.key)
                    click.echo(
                        f"client          {push:6.1f} s, {push / bare:.2f} x, "
                        f"{devices / push:,.0f} devices/s, {most:.0f} MiB at most"
                    )


if __name__ == "__main__":
    main()
