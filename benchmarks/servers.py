"""Comparisons of two servers with the same devices: the cost of the history, and of
Citus."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.baseline import BATCHES
from benchmarks.client import Client
from benchmarks.database import SETTINGS, Fleet, create_fleets, postgres
from benchmarks.load.generator import cpu_seconds
from benchmarks.measure import (
    WARM_UP_ROUNDS,
    Sample,
    Subject,
    measure_interleaved,
    over_http,
)
from bulk_metadata.db.history.settings import enable_history
from bulk_metadata.db.schema import apply_schema
from tests.support.citus import find_citus, start_nodes, statements
from tests.support.cluster import Cluster, cluster
from tests.support.service import run_service
from tests.support.waiting import free_port

WITHOUT, WITH = "without history", "with history"
PLAIN, COORDINATOR, WORKERS = "plain PostgreSQL", "coordinator", "worker nodes"


def measure_history(
    devices: int, rounds: int, directory: Path
) -> dict[int, dict[str, Sample]]:
    """Measure requests of one and of many devices on two equal servers, interleaved."""
    with ExitStack() as stack:
        subjects = {}
        for name in (WITHOUT, WITH):
            server = stack.enter_context(postgres())
            subjects[name], fleet = stack.enter_context(
                run_subject(server, devices, directory / f"{name}.log")
            )
            if name == WITH:
                with closing(server.connect()) as owner:
                    owner.autocommit = False
                    with owner, owner.cursor() as cursor:
                        enable_history(cursor)
        # Both fleets contain the same identifiers.
        return {
            batch: measure_interleaved(subjects, fleet, batch, rounds)
            for batch in (BATCHES[0], BATCHES[-1])
        }


@contextmanager
def run_subject(
    server: Cluster, devices: int, log: Path
) -> Iterator[tuple[Subject, Fleet]]:
    """Run the service on a server, with a new fleet."""
    [fleet] = create_fleets(server, (devices,))
    with (
        run_service(log, DATABASE_URL=server.service_url) as service,
        Client(service.port, fleet.key) as client,
    ):
        yield over_http(client), fleet


@dataclass(frozen=True)
class CitusSample:
    """Requests to plain PostgreSQL and to a Citus cluster of the same version."""

    latency: dict[str, Sample]
    #: CPU time of the servers per request, in milliseconds.
    cpu: dict[str, float]


def measure_citus(
    devices: int, rounds: tuple[int, int], directory: Path
) -> dict[int, CitusSample]:
    """Measure requests of one and of many devices on plain PostgreSQL and on a cluster
    with two worker nodes, interleaved. Without Citus, return no results."""
    binaries = find_citus()
    if binaries is None:
        return {}
    with (
        cluster(directory / "plain", free_port(), binaries, **SETTINGS) as plain,
        start_nodes(binaries, **SETTINGS) as (coordinator, *workers),
        ExitStack() as stack,
    ):
        subjects = {}
        for name, server in ((PLAIN, plain), (COORDINATOR, coordinator)):
            with closing(server.connect()) as connection, connection.cursor() as cursor:
                apply_schema(cursor)
                for statement in statements() if name == COORDINATOR else []:
                    cursor.execute(statement)
            subjects[name], fleet = stack.enter_context(
                run_subject(server, devices, directory / f"{name}.log")
            )
        servers = {PLAIN: [plain], COORDINATOR: [coordinator], WORKERS: workers}
        results = {}
        for batch, number in zip((BATCHES[0], BATCHES[-1]), rounds, strict=True):
            before = cpu_times(servers)
            latency = measure_interleaved(subjects, fleet, batch, number)
            cpu = {
                name: (seconds - before[name]) * 1000 / (WARM_UP_ROUNDS + number)
                for name, seconds in cpu_times(servers).items()
            }
            results[batch] = CitusSample(latency, cpu)
        return results


def cpu_times(servers: dict[str, list[Cluster]]) -> dict[str, float]:
    """Return the CPU time of the servers in seconds."""
    return {
        name: sum(cpu_seconds(node.processes()[0].pid) for node in nodes)
        for name, nodes in servers.items()
    }
