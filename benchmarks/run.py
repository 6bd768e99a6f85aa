"""A run: all measurements, one after another."""

import tempfile
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import click

from benchmarks.budget import measure_budget
from benchmarks.comparison import (
    CONNECTIONS,
    THIS,
    WORKERS,
    measure_comparison,
    peers,
)
from benchmarks.database import create_fleets, postgres
from benchmarks.fleet import Fleet
from benchmarks.limit import BATCHES, measure_limit
from benchmarks.load import Bursts
from benchmarks.measure import Sample
from benchmarks.memory import measure_memory
from benchmarks.results import Results
from benchmarks.storage import Storage, measure_storage
from tests.support.cluster import Cluster
from tests.support.service import Service, run_service


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    fleets: tuple[int, ...]
    # Rounds for batches of up to 100 devices, and of 1,000.
    rounds: tuple[int, int]
    peers_rounds: int
    bursts: Bursts
    requests: int
    rewritten: int
    rewrites: int


def run(effort: Effort) -> Results:
    """Measure everything, and say how far it is."""
    with tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as name:
        folder = Path(name)
        storage = rewrite(effort, folder)
        with postgres() as server:
            return compare(effort, storage, server, folder)


def rewrite(effort: Effort, folder: Path) -> Storage:
    """Rewrite a fleet again and again, on a server that has nothing else."""
    click.echo(f"Rewriting {effort.rewritten:,} devices {effort.rewrites} times ...")
    with postgres() as server:
        [fleet] = create_fleets(server, (effort.rewritten,), settled=False)
        with (
            served(server, folder) as service,
            closing(server.connect()) as connection,
            connection.cursor() as cursor,
        ):
            return measure_storage(cursor, service.port, fleet, effort.rewrites)


def compare(effort: Effort, storage: Storage, server: Cluster, folder: Path) -> Results:
    """Measure all but ``storage``; return that as well."""
    click.echo(f"Creating {sum(effort.fleets):,} devices ...")
    fleets = create_fleets(server, effort.fleets)
    with (
        served(server, folder) as service,
        peers(server.url, folder) as ports,
    ):
        limit = limits(effort, fleets, server, service)
        click.echo("Step by step ...")
        budget = measure_budget(
            server.service_url, service.port, fleets[-1], BATCHES[-1], effort.rounds[1]
        )
        comparison = measure_comparison(
            {THIS: service.port, **ports},
            fleets[-1],
            effort.peers_rounds,
            effort.bursts,
        )
    memory = measure_memory(server.service_url, fleets[0], effort.requests, folder)
    return Results(version(server), limit, budget, comparison, memory, storage)


def served(server: Cluster, folder: Path) -> AbstractContextManager[Service]:
    """Run the service as it is delivered."""
    settings = {
        "DATABASE_URL": server.service_url,
        "WORKERS": str(WORKERS),
        "THREADS": str(CONNECTIONS),
    }
    return run_service(folder / "service.log", **settings)


def version(server: Cluster) -> str:
    """Return the server's name and version."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT version()")
        [[text]] = cursor.fetchall()
    return str(text).partition(" on ")[0]


def limits(
    effort: Effort, fleets: list[Fleet], server: Cluster, service: Service
) -> dict[tuple[int, int], dict[str, Sample]]:
    """Measure the service beside bare statements, for all fleets and batches."""
    found = {}
    for fleet, batch in product(fleets, BATCHES):
        rounds = effort.rounds[batch == BATCHES[-1]]
        samples = measure_limit(server.service_url, service.port, fleet, batch, rounds)
        found[fleet.size, batch] = samples
        medians = (f"{name} {each.median:.2f}" for name, each in samples.items())
        click.echo(f"{batch:,} of {fleet.size:,} devices: {', '.join(medians)} ms")
    return found
