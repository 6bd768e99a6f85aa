"""The service beside its peers: latency of one client, and load of eight."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from benchmarks.client import Client
from benchmarks.fleet import Fleet
from benchmarks.limit import BATCHES
from benchmarks.load import Bursts, Load, measure_load
from benchmarks.measure import Sample, one_by_one, over_http, side_by_side
from benchmarks.peers import PEERS, Missing, install, run
from tests.support.service import free_port

THIS = "this service"
# The same service, called by a script that sends a small request for each device.
ONE_BY_ONE = "a request for each device"

WORKERS = 2
CONNECTIONS = 4


@dataclass(frozen=True)
class Comparison:
    """What the subjects did, by their titles, on a fleet of so many devices."""

    fleet: int
    # By batch: what one client waits for.
    latency: dict[int, dict[str, Sample]]
    # What 8 clients get done, each on devices of its own, or all on the same.
    disjoint: dict[str, Load]
    overlapping: dict[str, Load]

    def errors(self, title: str) -> int:
        """Return how many calls of the 8 clients failed."""
        return self.disjoint[title].errors + self.overlapping[title].errors

    @property
    def missing(self) -> list[str]:
        """The peers that could not be had."""
        return [peer.title for peer in PEERS if peer.title not in self.disjoint]


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


def measure_comparison(
    ports: Mapping[str, int], fleet: Fleet, rounds: int, bursts: Bursts
) -> Comparison:
    """Measure the subjects at ``ports``, the service among them."""
    latency = {}
    for batch in (BATCHES[0], BATCHES[-1]):
        click.echo(f"The service and its peers, calls for {batch:,} ...")
        latency[batch] = measure_latency(ports, fleet, batch, rounds)
    targets = {title: (port, BATCHES[-1]) for title, port in ports.items()}
    targets[ONE_BY_ONE] = (ports[THIS], 1)
    click.echo("8 clients of the service and of its peers, each its own devices ...")
    disjoint = measure_load(targets, fleet, False, bursts)
    click.echo("8 clients of the service and of its peers, all the same devices ...")
    overlapping = measure_load(targets, fleet, True, bursts)
    return Comparison(fleet.size, latency, disjoint, overlapping)


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
