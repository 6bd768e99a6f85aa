"""The service beside its peers: latency of one client, and load of eight."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from benchmarks.client import Client
from benchmarks.fleet import Fleet
from benchmarks.load import Bursts, Load, measure_load
from benchmarks.measure import Sample, one_by_one, over_http, side_by_side
from benchmarks.peers import PEERS, Missing, install, run
from tests.service import free_port

THIS = "this service"
# The same service, called by a script that sends a small request for each device.
ONE_BY_ONE = "a request for each device"

WORKERS = 2
CONNECTIONS = 4


@contextmanager
def peers(database_url: str, folder: Path) -> Iterator[dict[str, int]]:
    """Run all peers that can be had here; give their ports by title.

    They connect as the owner, with PostgreSQL's own planner settings.
    """
    with ExitStack() as stack:
        ports = {}
        for peer in PEERS:
            try:
                install(peer)
            except Missing as missing:
                click.echo(f"Left out: {missing}")
                continue
            ports[peer.title] = free_port()
            log = folder / f"{peer.name}.log"
            stack.enter_context(
                run(peer, database_url, ports[peer.title], WORKERS, CONNECTIONS, log)
            )
        yield ports


def measure_latency(
    ports: Mapping[str, int], fleet: Fleet, batch: int, rounds: int
) -> dict[str, Sample]:
    """Measure one client of the service and of each peer, side by side."""
    with ExitStack() as stack:
        clients = {
            title: stack.enter_context(Client(port, fleet.key))
            for title, port in ports.items()
        }
        subjects = {title: over_http(client) for title, client in clients.items()}
        if batch > 1:
            subjects[ONE_BY_ONE] = one_by_one(clients[THIS])
        return side_by_side(subjects, fleet, batch, rounds)


def measure_loads(
    ports: Mapping[str, int],
    fleet: Fleet,
    overlapping: bool,
    batch: int,
    bursts: Bursts,
) -> dict[str, Load]:
    """Measure eight clients of the service and of each peer."""
    targets = {title: (port, batch) for title, port in ports.items()}
    targets[ONE_BY_ONE] = (ports[THIS], 1)
    return measure_load(targets, fleet, overlapping, bursts)
