"""``make bench``: compare the service with its baseline and with alternatives.

Starts a dedicated PostgreSQL server, and sends traffic only to this machine.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import click

from benchmarks.alternatives import (
    ALTERNATIVES,
    CONNECTIONS,
    EMPTY_VIEW,
    WORKERS,
    InstallationError,
    install,
    run,
)
from benchmarks.baseline import BATCHES, measure_baseline
from benchmarks.breakdown import measure_breakdown
from benchmarks.database import ANALYZE, Fleet, create_fleets, postgres
from benchmarks.load.generator import Target
from benchmarks.load.workloads import (
    OVERLAPPING,
    WORKLOADS,
    Load,
    Workload,
    measure_load,
)
from benchmarks.measure import Sample
from benchmarks.memory import measure_memory
from benchmarks.report.document import write_report
from benchmarks.report.plot import plot
from benchmarks.report.results import THIS, Results
from benchmarks.servers import measure_citus, measure_history
from tests.support.cluster import Cluster
from tests.support.service import Service, run_service
from tests.support.waiting import free_port

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Effort:
    """The number of measurements."""

    fleets: tuple[int, ...]
    # Rounds of the baseline for batches of up to 100 devices, and of 1,000.
    rounds: tuple[int, int]
    # Load: the number of turns of each implementation, and their seconds.
    load_rounds: int
    load_seconds: int
    profile_seconds: int
    # Requests before the memory is measured again.
    requests: int


EFFORTS = {
    # For a change of the request path: compare the ratios before and after.
    "quick": Effort((5_000, 100_000), (100, 40), 1, 1, 4, 300),
    "full": Effort((5_000, 100_000, 1_000_000), (500, 150), 3, 3, 20, 20_000),
    # For the tests of the benchmark.
    "least": Effort((1_000, 2_000), (2, 2), 1, 1, 1, 5),
}


@click.command()
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="full")
@click.option(
    "--fleet",
    "fleets",
    type=int,
    multiple=True,
    help="Number of devices in a fleet. Repeatable; replaces the fleets of the effort.",
)
@click.argument("output", default=HERE, type=click.Path(path_type=Path))
def main(effort: str, fleets: tuple[int, ...], output: Path) -> None:
    """Run the benchmark; write RESULTS.md and results.svg to the directory OUTPUT."""
    chosen = EFFORTS[effort]
    results = measure(replace(chosen, fleets=tuple(sorted(fleets)) or chosen.fleets))
    report = write_report(results, f"python -m benchmarks --effort {effort}")
    click.echo(f"\n{report}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "RESULTS.md").write_text(report)
    plot(results, output / "results.svg")


def measure(effort: Effort) -> Results:
    """Run all measurements."""
    with (
        tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as name,
        postgres() as server,
    ):
        directory = Path(name)
        click.echo(f"Creating {sum(effort.fleets):,} devices ...")
        fleets = create_fleets(server, effort.fleets)
        server.execute(*ANALYZE)
        settings = {
            "DATABASE_URL": server.service_url,
            "WORKERS": str(WORKERS),
            "THREADS": str(CONNECTIONS),
        }
        with (
            run_service(directory / "service.log", **settings) as service,
            run_alternatives(server.url, directory) as targets,
        ):
            baseline = measure_baselines(effort, fleets, server, service)
            targets[THIS] = Target(service.port, service.process.pid)
            load = measure_loads(effort, fleets[-1], server, targets)
        click.echo("Breakdown of a request ...")
        batches = [BATCHES[0], BATCHES[-1]]
        breakdown = measure_breakdown(
            server.service_url, fleets[-1], batches, effort.profile_seconds, directory
        )
        memory = measure_memory(
            server.service_url, fleets[0], effort.requests, directory
        )
        click.echo("Cost of the history ...")
        history = measure_history(fleets[0].size, effort.rounds[1], directory)
        click.echo("Cost of Citus ...")
        citus = measure_citus(fleets[0].size, effort.rounds, directory)
        return Results(
            version(server), baseline, load, breakdown, history, citus, memory
        )


@contextmanager
def run_alternatives(database_url: str, directory: Path) -> Iterator[dict[str, Target]]:
    """Run the alternatives that can be installed, and yield them by title.

    They connect as the owner, with the default planner settings of PostgreSQL.
    """
    with ExitStack() as stack:
        targets = {}
        for alternative in [*ALTERNATIVES, EMPTY_VIEW]:
            try:
                install(alternative)
            except InstallationError as error:
                click.echo(f"Skipped: {error}")
                continue
            port = free_port()
            log = directory / f"{alternative.name}.log"
            process = stack.enter_context(run(alternative, database_url, port, log))
            targets[alternative.title] = Target(port, process.pid)
        yield targets


def measure_baselines(
    effort: Effort, fleets: list[Fleet], server: Cluster, service: Service
) -> dict[tuple[int, int], dict[str, Sample]]:
    """Compare the service with its baseline for all fleets and batches."""
    results = {}
    for fleet, batch in product(fleets, BATCHES):
        rounds = effort.rounds[batch == BATCHES[-1]]
        samples = measure_baseline(
            server.service_url, service.port, fleet, batch, rounds
        )
        results[fleet.size, batch] = samples
        medians = (f"{name} {each.median:.2f}" for name, each in samples.items())
        click.echo(f"{batch:,} of {fleet.size:,} devices: {', '.join(medians)} ms")
    return results


def measure_loads(
    effort: Effort, fleet: Fleet, server: Cluster, targets: dict[str, Target]
) -> dict[Workload, dict[str, Load]]:
    """Compare the service with the alternatives for all workloads."""
    results = {}
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        for workload in [*WORKLOADS, OVERLAPPING]:
            click.echo(f"Load: {workload} ...")
            chosen = dict(targets)
            if workload.devices > 1:
                chosen.pop(EMPTY_VIEW.title, None)
            results[workload] = measure_load(
                chosen, fleet, workload, effort.load_rounds, effort.load_seconds, cursor
            )
    return results


def version(server: Cluster) -> str:
    """Return the name and the version of the server."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT version()")
        [[text]] = cursor.fetchall()
    return str(text).partition(" on ")[0]


if __name__ == "__main__":
    main()
