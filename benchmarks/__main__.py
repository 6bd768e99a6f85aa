"""``make bench``: measure the service beside bare statements and beside its peers.

Runs a PostgreSQL of its own, and sends traffic to this machine only.
"""

import tempfile
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.budget import measure_budget
from benchmarks.comparison import (
    CONNECTIONS,
    THIS,
    WORKERS,
    measure_latency,
    measure_loads,
    peers,
)
from benchmarks.database import create_fleets, postgres
from benchmarks.fleet import Fleet
from benchmarks.limit import BATCHES, measure_limit
from benchmarks.load import Bursts
from benchmarks.measure import Sample
from benchmarks.memory import measure_memory
from benchmarks.plot import plot
from benchmarks.report import report
from benchmarks.results import Results
from benchmarks.storage import Storage, measure_storage
from tests.faults.cluster import Cluster
from tests.service import Service, run_service

HERE = Path(__file__).parent


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


EFFORTS = {
    # For a change that may cost time: are the ratios still what they were?
    "quick": Effort((5_000, 100_000), (150, 50), 5, Bursts(1, 2.0), 500, 5_000, 20),
    "full": Effort(
        (5_000, 100_000, 1_000_000),
        (1000, 300),
        60,
        Bursts(4, 3.0),
        20_000,
        10_000,
        200,
    ),
    # For the benchmark's own test.
    "least": Effort((1_000, 2_000), (2, 2), 2, Bursts(1, 0.2), 5, 1_000, 2),
}


@click.command()
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="full")
@click.option(
    "--fleet", "fleets", type=int, multiple=True, help="Instead of its fleets."
)
@click.argument("output", default=HERE, type=click.Path(path_type=Path))
def main(effort: str, fleets: tuple[int, ...], output: Path) -> None:
    """Run the benchmark; write RESULTS.md and results.svg into the folder OUTPUT."""
    command = f"python -m benchmarks --effort {effort}"
    plan = EFFORTS[effort]
    sizes = sorted(fleets or plan.fleets)
    with tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as name:
        folder = Path(name)
        storage = rewrite(plan, folder)
        with postgres() as server:
            results, version = compare(plan, sizes, storage, server, folder)
    text = report(results, version, command)
    click.echo(f"\n{text}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "RESULTS.md").write_text(text)
    plot(results, output / "results.svg")


def rewrite(plan: Effort, folder: Path) -> Storage:
    """Rewrite a fleet again and again, on a server that has nothing else."""
    click.echo(f"Rewriting {plan.rewritten:,} devices {plan.rewrites} times ...")
    with postgres() as server:
        [fleet] = create_fleets(server, [plan.rewritten])
        with (
            served(server, folder) as service,
            closing(server.connect()) as connection,
            connection.cursor() as cursor,
        ):
            return measure_storage(cursor, service.port, fleet, plan.rewrites)


def served(server: Cluster, folder: Path) -> AbstractContextManager[Service]:
    """Run the service as it is delivered."""
    settings = {
        "DATABASE_URL": server.service_url,
        "WORKERS": str(WORKERS),
        "THREADS": str(CONNECTIONS),
    }
    return run_service(folder / "service.log", **settings)


def compare(
    plan: Effort, sizes: list[int], storage: Storage, server: Cluster, folder: Path
) -> tuple[Results, str]:
    """Measure all but the storage; return that too, and PostgreSQL's version."""
    click.echo(f"Creating {sum(sizes):,} devices ...")
    fleets = create_fleets(server, sizes)
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT version()")
        [[version]] = cursor.fetchall()
    with (
        served(server, folder) as service,
        peers(server.url, folder) as ports,
    ):
        ports = {THIS: service.port, **ports}
        limit = limits(plan, fleets, server, service)
        click.echo("Step by step ...")
        budget = measure_budget(
            server.service_url, service.port, fleets[-1], BATCHES[-1], plan.rounds[1]
        )
        latency = {}
        for batch in (BATCHES[0], BATCHES[-1]):
            click.echo(f"The service and its peers, calls for {batch:,} ...")
            rounds = plan.peers_rounds
            latency[batch] = measure_latency(ports, fleets[-1], batch, rounds)
        loads = []
        for overlapping, how in ((False, "disjoint"), (True, "overlapping")):
            click.echo(f"8 clients of the service and of its peers, {how} ...")
            loads.append(
                measure_loads(ports, fleets[-1], overlapping, BATCHES[-1], plan.bursts)
            )
    memory = measure_memory(server.service_url, fleets[0], plan.requests, folder)
    disjoint, overlapping_loads = loads
    results = Results(
        limit,
        budget,
        fleets[-1].size,
        latency,
        disjoint,
        overlapping_loads,
        memory,
        storage,
    )
    return results, version.partition(" on ")[0]


def limits(
    plan: Effort, fleets: list[Fleet], server: Cluster, service: Service
) -> dict[tuple[int, int], dict[str, Sample]]:
    """Measure the service beside bare statements, for all fleets and batches."""
    found = {}
    for fleet in fleets:
        for batch in BATCHES:
            rounds = plan.rounds[batch == BATCHES[-1]]
            samples = measure_limit(
                server.service_url, service.port, fleet, batch, rounds
            )
            found[fleet.size, batch] = samples
            medians = (f"{name} {each.median:.2f}" for name, each in samples.items())
            click.echo(f"{batch:,} of {fleet.size:,} devices: {', '.join(medians)} ms")
    return found


main()
