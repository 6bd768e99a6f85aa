"""Random faults while concurrent clients write."""

import random
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.faults.conftest import run_clients
from tests.random_search import FACTOR, SEED
from tests.support.cluster import Cluster
from tests.support.concurrent_clients import ConcurrentClients
from tests.support.service import Service
from tests.support.waiting import wait_until

FAULTS = 10 * FACTOR

pytestmark = [
    pytest.mark.faults,
    pytest.mark.soak,
    pytest.mark.slow(reason="each kind of fault several times"),
]


def crash(server: Cluster, service: Service, chance: random.Random) -> None:
    server.restart("immediate")


def terminate_backends(
    server: Cluster, service: Service, chance: random.Random
) -> None:
    for pid in backends(server):
        send(signal.SIGTERM, pid)


def kill_backend(server: Cluster, service: Service, chance: random.Random) -> None:
    send(signal.SIGKILL, chance.choice(backends(server)))


def kill_worker(server: Cluster, service: Service, chance: random.Random) -> None:
    wait_until(service.workers, "a worker")
    if workers := list(service.workers()):
        send(signal.SIGKILL, chance.choice(workers))


def reload(server: Cluster, service: Service, chance: random.Random) -> None:
    service.process.send_signal(signal.SIGHUP)


KINDS: list[Callable[[Cluster, Service, random.Random], None]] = [
    crash,
    terminate_backends,
    kill_backend,
    kill_worker,
    reload,
]


def backends(server: Cluster) -> list[int]:
    """Return the backends of the service, as soon as the server has any."""
    found: list[int] = []

    def find() -> bool:
        try:
            found.extend(server.backends().values())
        except psycopg2.Error:
            return False
        return bool(found)

    wait_until(find, "backends of the service")
    return found


def send(number: signal.Signals, pid: int) -> None:
    """Send a signal to a process, unless it has exited."""
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).send_signal(number)


def wait_for_requests(clients: ConcurrentClients, number: int) -> None:
    goal = len(clients.statuses) + number
    wait_until(lambda: len(clients.statuses) >= goal, "requests")


def test_random_faults_keep_acknowledged_requests(
    server: Cluster, directory: Path
) -> None:
    chance = random.Random(SEED)
    with run_clients(server, directory) as (service, clients):
        with clients.writing():
            for number in range(FAULTS):
                wait_for_requests(clients, chance.randrange(500))
                kind = KINDS[number % len(KINDS)]
                print(f"{number + 1} of {FAULTS}: {kind.__name__}", flush=True)
                kind(server, service, chance)
        # Read the state after a crash, so that it is the stored one.
        server.restart("immediate")
        clients.check(server.metadata(), broken=len(clients.statuses))
        assert clients.burst() == {200}
        assert clients.slowest < 15
