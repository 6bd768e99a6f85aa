"""Effects of a reload, a recycled worker, a shutdown and a killed worker on clients."""

import signal
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
RECYCLED = 6
# Long enough to examine a request in flight.
LONG_TIMEOUTS = {
    "LOCK_TIMEOUT": "12",
    "STATEMENT_TIMEOUT": "14",
    "ANSWER_TIMEOUT": "16",
}
WAITING = "wait_event_type = 'Lock'"


@dataclass
class Site:
    """The service, its database, and clients with kept connections."""

    server: Cluster
    service: Service
    key: str
    clients: list[Client] = field(default_factory=list)

    def client(self) -> Client:
        self.clients.append(Client(self.service, self.key))
        return self.clients[-1]

    def post_once(self, number: int) -> int:
        """Update a device on a new connection and return the status."""
        with closing(Client(self.service, self.key)) as client:
            return client.post(devices([number])).status

    def connected_workers(self) -> list[psutil.Process]:
        """Return all workers, after each of them has connected to the database."""

        def are_connected() -> bool:
            found = workers(self.service).values()
            return sum(bool(ports(worker, self.server)) for worker in found) == WORKERS

        with load(self.post_once, CLIENTS):
            wait_until(are_connected, "every worker to be connected")
        return list(workers(self.service).values())


@pytest.fixture
def owner(server: Cluster) -> Iterator[Cursor]:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        yield cursor


@contextmanager
def run_site(server: Cluster, folder: Path, **settings: str) -> Iterator[Site]:
    """Run the service on 100 devices of ``server``."""
    key = server.prepare(devices=100)
    settings = {"DATABASE_URL": server.service_url, **settings}
    with run_service(folder / "gunicorn", **settings) as service:
        site = Site(server, service, key)
        try:
            yield site
        finally:
            for client in site.clients:
                client.close()


@contextmanager
def continuous_requests(site: Site) -> Iterator[None]:
    """Let clients send requests without a pause. Each one must succeed."""
    clients = [site.client() for _ in range(CLIENTS)]

    def step(number: int) -> None:
        assert clients[number].post(devices([number, 99])).status == 200

    with load(step, CLIENTS):
        yield


@contextmanager
def locked_device(site: Site, number: int) -> Iterator[None]:
    """Lock the row of a device in another transaction."""
    with closing(site.server.connect()) as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute(
            "SELECT FROM devices WHERE identifier = %s FOR UPDATE", (f"SN-{number}",)
        )
        yield


def test_reload_fails_no_request(server: Cluster, folder: Path) -> None:
    with run_site(server, folder) as site, continuous_requests(site):
        for _ in range(RELOADS):
            reload(site.service)


def test_recycled_worker_fails_no_request(server: Cluster, folder: Path) -> None:
    options = "--max-requests 50 --max-requests-jitter 20"
    with (
        run_site(server, folder, GUNICORN_CMD_ARGS=options) as site,
        continuous_requests(site),
    ):
        wait_until(
            lambda: site.service.log.read_text().count("Autorestarting") >= RECYCLED,
            "workers to be recycled",
        )


def test_shutdown_waits_for_requests_in_flight(
    server: Cluster, folder: Path, owner: Cursor
) -> None:
    with (
        run_site(server, folder, **LONG_TIMEOUTS) as site,
        ThreadPoolExecutor(WORKERS * 2) as executor,
    ):
        idle = [site.client() for _ in range(4)]
        for client in idle:
            assert client.post(devices([1])).status == 200
        with locked_device(site, 0):
            requests = [executor.submit(site.post_once, 0) for _ in range(WORKERS * 2)]
            wait_until(
                lambda: len(backends(owner, WAITING)) == len(requests),
                "requests in flight",
            )
            site.service.process.send_signal(signal.SIGTERM)
            for client in idle:
                # Idle connections are closed, not reset, while the requests wait.
                assert client.connection.sock.recv(1) == b""
            assert not any(request.done() for request in requests)
        assert [request.result() for request in requests] == [200] * len(requests)
        assert site.service.process.wait(60) == 0
    wait_until(lambda: not backends(owner), "the connections of the service to end")


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", b"hello\r\n\r\n"])
def test_silent_connection_does_not_delay_shutdown(
    data: bytes, service_url: str, folder: Path
) -> None:
    options = "--keep-alive 600 --graceful-timeout 600"
    settings = {"DATABASE_URL": service_url, "GUNICORN_CMD_ARGS": options}
    with run_service(folder / "gunicorn", **settings) as service:
        assert service.request("{}").status == 401
        with closing(Client(service, "").connection) as silent:
            silent.connect()
            silent.sock.sendall(data)
            # The worker has accepted it: connections are accepted in order.
            assert {service.request("{}").status for _ in range(20)} == {401}
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(60) == 0


def test_preloaded_workers_share_no_connection(
    server: Cluster, folder: Path, owner: Cursor
) -> None:
    with run_site(server, folder, GUNICORN_CMD_ARGS="--preload") as site:
        found = [ports(worker, server) for worker in site.connected_workers()]
        assert not ports(psutil.Process(site.service.process.pid), server)
        # Every backend belongs to one worker.
        assert sorted(backends(owner)) == sorted(p for ports in found for p in ports)


@pytest.mark.slow(reason="PostgreSQL cancels the statement after LOCK_TIMEOUT, 4 s")
def test_killed_worker_leaves_no_lock_or_connection(
    server: Cluster, folder: Path, owner: Cursor
) -> None:
    with run_site(server, folder) as site, ThreadPoolExecutor(1) as executor:
        site.connected_workers()
        with locked_device(site, 50):
            request = executor.submit(site.post_once, 50)
            wait_until(lambda: backends(owner, WAITING), "a request in flight")
            worker, pids = waiting_worker(site, owner)
            worker.kill()
            assert isinstance(request.exception(), ConnectionError)
            # The other worker continues, and gunicorn starts a new one.
            assert {site.post_once(1) for _ in range(50)} == {200}
            wait_until(lambda: len(workers(site.service)) == WORKERS, "a new worker")
            assert worker.pid not in workers(site.service)
            # The device remains locked, so PostgreSQL has to cancel the statement.
            wait_until(
                lambda: pids.isdisjoint(backends(owner).values()),
                "the connections of the killed worker to end",
            )
            owner.execute("SELECT pid FROM pg_locks")
            assert pids.isdisjoint(pid for (pid,) in owner.fetchall())
        assert server.metadata()["SN-50"] == {}
        assert site.post_once(50) == 200


def waiting_worker(site: Site, owner: Cursor) -> tuple[psutil.Process, set[int]]:
    """Return the worker that waits for a lock, and the process IDs of its backends."""
    (port,) = backends(owner, WAITING)
    worker = next(
        worker
        for worker in workers(site.service).values()
        if port in ports(worker, site.server)
    )
    all_backends = backends(owner)
    return worker, {all_backends[port] for port in ports(worker, site.server)}
