"""What a reload, a recycled worker, the end and a killed worker cost the clients."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from psycopg2.extensions import cursor as Cursor

from tests.support.cluster import Cluster
from tests.support.load import (
    Client,
    backends,
    devices,
    load,
    ports,
    reload,
    workers,
)
from tests.support.service import Service, run_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

CLIENTS = 8
WORKERS = 2
RELOADS = 4
RECYCLED = 12
# Long enough to look at a call in flight.
PATIENT = {"LOCK_TIMEOUT": "12", "STATEMENT_TIMEOUT": "14", "ANSWER_TIMEOUT": "16"}


@dataclass
class Site:
    """The service, its database, and clients of both."""

    server: Cluster
    service: Service
    key: str
    clients: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        self.clients.append(Client(self.service, self.key))
        return self.clients[-1]

    def post_once(self, number: int) -> int:
        """Update a device on a connection of its own and return the status."""
        with closing(Client(self.service, self.key)) as client:
            return client.post(devices([number])).status


@pytest.fixture
def owner(server: Cluster) -> Iterator[Cursor]:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def site(server: Cluster, folder: Path, **settings: str) -> Iterator[Site]:
    """Run the service on 100 devices of ``server``."""
    key = server.prepare(devices=100)
    settings = {"DATABASE_URL": server.service_url, **settings}
    with run_service(folder / "gunicorn", **settings) as service:
        place = Site(server, service, key)
        try:
            yield place
        finally:
            for client in place.clients:
                client.close()


@contextmanager
def no_failed_call(place: Site) -> Iterator[None]:
    """Have clients call without a pause; each call must be answered, with 200."""
    clients = [place.client() for _ in range(CLIENTS)]

    def step(number: int) -> None:
        assert clients[number].post(devices([number, 99])).status == 200

    with load(step, CLIENTS):
        yield


@contextmanager
def held(place: Site, number: int) -> Iterator[None]:
    """Hold a device's row, as another transaction."""
    with closing(place.server.connect()) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute(
            "SELECT FROM devices WHERE identifier = %s FOR UPDATE", (f"SN-{number}",)
        )
        yield


def connected_workers(place: Site) -> list[psutil.Process]:
    """Return all workers, once each of them has used its database."""

    def are_connected() -> bool:
        found = workers(place.service).values()
        connected = [worker for worker in found if ports(worker, place.server)]
        return len(connected) == WORKERS

    # Each call on a connection of its own: no worker is left out for long.
    with load(place.post_once, CLIENTS):
        wait_until(are_connected, "every worker to be connected")
    return list(workers(place.service).values())


WAITING = "wait_event_type = 'Lock'"


def test_a_reload_fails_no_call(server: Cluster, folder: Path) -> None:
    with site(server, folder) as place, no_failed_call(place):
        for _ in range(RELOADS):
            reload(place.service)


def test_a_recycled_worker_fails_no_call(server: Cluster, folder: Path) -> None:
    recycle = "--max-requests 50 --max-requests-jitter 20"
    with (
        site(server, folder, GUNICORN_CMD_ARGS=recycle) as place,
        no_failed_call(place),
    ):
        wait_until(
            lambda: place.service.log.read_text().count("Autorestarting") >= RECYCLED,
            "workers to be recycled",
        )


def test_the_end_waits_for_calls_in_flight(
    server: Cluster, folder: Path, owner: Cursor
) -> None:
    with (
        site(server, folder, **PATIENT) as place,
        ThreadPoolExecutor(WORKERS * 2) as executor,
    ):
        idle = [place.client() for _ in range(4)]
        for client in idle:
            assert client.post(devices([1])).status == 200
        with held(place, 0):
            calls = [executor.submit(place.post_once, 0) for _ in range(WORKERS * 2)]
            wait_until(
                lambda: len(backends(owner, WAITING)) == len(calls), "calls in flight"
            )
            place.service.process.send_signal(signal.SIGTERM)
            for client in idle:
                # An end, not a reset, while the calls still wait.
                assert client.connection.sock.recv(1) == b""
            assert not any(call.done() for call in calls)
        assert [call.result() for call in calls] == [200] * len(calls)
        assert place.service.process.wait(60) == 0
    wait_until(lambda: not backends(owner), "the service's connections to end")


def test_a_silent_connection_does_not_delay_the_end(
    server: Cluster, folder: Path
) -> None:
    # Limits that only a worker which waits in vain could reach.
    endless = "--keep-alive 600 --graceful-timeout 600"
    with site(server, folder, GUNICORN_CMD_ARGS=endless) as place:
        connected_workers(place)
        with closing(place.client().connection) as silent:
            silent.connect()
            # Ten times as long as a worker waits before it puts the connection aside.
            time.sleep(1)
            place.service.process.send_signal(signal.SIGTERM)
            assert place.service.process.wait(60) == 0


def test_no_connection_is_shared_across_a_preloading_fork(
    server: Cluster, folder: Path, owner: Cursor
) -> None:
    with site(server, folder, GUNICORN_CMD_ARGS="--preload") as place:
        held_by = [ports(worker, server) for worker in connected_workers(place)]
        assert not ports(psutil.Process(place.service.process.pid), server)
        # Every backend serves one worker, and every worker backends of its own.
        assert sorted(backends(owner)) == sorted(p for ports in held_by for p in ports)


def test_a_killed_worker_leaves_nothing_behind(
    server: Cluster, folder: Path, owner: Cursor
) -> None:
    with site(server, folder, **PATIENT) as place, ThreadPoolExecutor(1) as executor:
        connected_workers(place)
        with held(place, 50):
            call = executor.submit(place.post_once, 50)
            wait_until(lambda: backends(owner, WAITING), "a call in flight")
            killed, left = at_work(place, owner)
            killed.kill()
            assert isinstance(call.exception(), ConnectionError)
            # The one that is left serves at once, and a new one comes to help it.
            assert {place.post_once(1) for _ in range(50)} == {200}
            wait_until(lambda: len(workers(place.service)) == WORKERS, "a new worker")
            assert killed.pid not in workers(place.service)
            # Nobody lets go of what the dead one waits for: it gives up by itself.
            wait_until(
                lambda: left.isdisjoint(backends(owner).values()),
                "the killed worker's connections to end",
            )
            assert left.isdisjoint(lockers(owner))
        assert server.metadata()["SN-50"] == {}
        assert place.post_once(50) == 200


def at_work(place: Site, owner: Cursor) -> tuple[psutil.Process, set[int]]:
    """Return the worker that waits for a lock, and the backends that serve it."""
    (port,) = backends(owner, WAITING)
    worker = next(
        worker
        for worker in workers(place.service).values()
        if port in ports(worker, place.server)
    )
    everyone = backends(owner)
    return worker, {everyone[port] for port in ports(worker, place.server)}


def lockers(owner: Cursor) -> set[int]:
    owner.execute("SELECT pid FROM pg_locks")
    return {pid for (pid,) in owner.fetchall()}
