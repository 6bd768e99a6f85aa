"""Effects of reloads, recycled workers, shutdowns and killed workers on clients."""

import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.conftest import LONG, WORKERS, run_clients
from tests.support.cluster import Cluster
from tests.support.concurrent_clients import (
    ConcurrentClients,
    KeepAliveClient,
    lock,
    repeat,
)
from tests.support.service import Service, run_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

CLIENTS = 8
WAITING = "wait_event_type = 'Lock'"


def update(clients: ConcurrentClients, identifier: str = "SN-0") -> int:
    """Update a device on a new connection and return the status."""
    return clients.post({identifier: {"a": 1}}).status


@contextmanager
def no_failed_request(clients: ConcurrentClients) -> Iterator[None]:
    """Send requests on kept connections without a pause. All must succeed."""
    with ExitStack() as stack:
        kept = [
            stack.enter_context(KeepAliveClient(clients.port, clients.key))
            for _ in range(CLIENTS)
        ]

        def step(number: int) -> None:
            devices = {f"SN-{number}": {"a": 1}, "SN-50": {"a": 1}}
            assert kept[number].post(devices).status == 200

        with repeat(step, CLIENTS):
            yield


def lock_device(server: Cluster) -> AbstractContextManager[None]:
    return lock(server, "SELECT FROM devices WHERE identifier = 'SN-0' FOR UPDATE")


def ports(process: psutil.Process, server: Cluster) -> set[int]:
    """Return the local ports of the connections from ``process`` to ``server``."""
    return {
        connection.laddr.port
        for connection in process.net_connections("tcp")
        if connection.raddr and connection.raddr.port == server.port
    }


def connect_workers(
    service: Service, clients: ConcurrentClients, server: Cluster
) -> list[psutil.Process]:
    """Send requests until every worker has a connection. Return the workers."""

    def are_connected() -> bool:
        workers = service.workers().values()
        return sum(bool(ports(worker, server)) for worker in workers) == WORKERS

    with repeat(lambda _: update(clients, "SN-1"), CLIENTS):
        wait_until(are_connected, "every worker to connect")
    return list(service.workers().values())


def test_reload_fails_no_request(server: Cluster, directory: Path) -> None:
    with (
        run_clients(server, directory) as (service, clients),
        no_failed_request(clients),
    ):
        for _ in range(4):
            service.reload()


def test_recycled_worker_fails_no_request(server: Cluster, directory: Path) -> None:
    recycle = "--max-requests 50 --max-requests-jitter 20"
    with (
        run_clients(server, directory, GUNICORN_CMD_ARGS=recycle) as (service, clients),
        no_failed_request(clients),
    ):
        wait_until(
            lambda: service.log.read_text().count("Autorestarting") >= 4,
            "workers to be recycled",
        )


def test_shutdown_waits_for_requests_in_flight(
    server: Cluster, directory: Path
) -> None:
    with (
        run_clients(server, directory, **LONG) as (service, clients),
        ExitStack() as stack,
        ThreadPoolExecutor(WORKERS * 2) as executor,
    ):
        idle = [
            stack.enter_context(KeepAliveClient(clients.port, clients.key))
            for _ in range(4)
        ]
        for client in idle:
            assert client.post({"SN-1": {"a": 1}}).status == 200
        with lock_device(server):
            requests = [executor.submit(update, clients) for _ in range(WORKERS * 2)]
            wait_until(lambda: server.waiting() == len(requests), "requests in flight")
            service.process.send_signal(signal.SIGTERM)
            for client in idle:
                # The connection is closed, not reset, while the requests still wait.
                assert client.connection.sock.recv(1) == b""
            assert not any(request.done() for request in requests)
        assert {request.result() for request in requests} == {200}
        assert service.process.wait(60) == 0
    wait_until(lambda: not server.backends(), "the connections to end")


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n", b"hello\r\n\r\n"])
def test_silent_connection_does_not_delay_shutdown(
    data: bytes, service_url: str, directory: Path
) -> None:
    # A worker that waits for the connection exceeds the timeout of the test.
    options = "--keep-alive 600 --graceful-timeout 600"
    settings = {"DATABASE_URL": service_url, "GUNICORN_CMD_ARGS": options}
    with (
        run_service(directory / "gunicorn", **settings) as service,
        socket.create_connection(("127.0.0.1", service.port)) as silent,
    ):
        silent.sendall(data)
        # The worker has accepted the connection: it accepts them in order.
        assert {service.request("{}").status for _ in range(20)} == {401}
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0


def test_shutdown_during_start_is_immediate(service_url: str, directory: Path) -> None:
    """gunicorn would wait for graceful_timeout, 600 s."""
    settings = {
        "DATABASE_URL": service_url,
        "GUNICORN_CMD_ARGS": "--graceful-timeout 600",
    }
    for _ in range(2):
        with run_service(directory / "gunicorn", **settings) as service:
            wait_until(service.workers, "the first worker")
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(60) == 0


def test_preloaded_workers_share_no_connection(
    server: Cluster, directory: Path
) -> None:
    preload = {"GUNICORN_CMD_ARGS": "--preload"}
    with run_clients(server, directory, **preload) as (service, clients):
        workers = connect_workers(service, clients, server)
        assert not ports(psutil.Process(service.process.pid), server)
        of_workers = [port for worker in workers for port in ports(worker, server)]
        assert sorted(server.backends()) == sorted(of_workers)


def test_killed_worker_leaves_no_lock_or_connection(
    server: Cluster, directory: Path
) -> None:
    # The backend of the killed worker waits until LOCK_TIMEOUT.
    settings = LONG | {"LOCK_TIMEOUT": "2"}
    with (
        run_clients(server, directory, **settings) as (service, clients),
        ThreadPoolExecutor(1) as executor,
    ):
        connect_workers(service, clients, server)
        with lock_device(server):
            request = executor.submit(update, clients)
            wait_until(server.waiting, "a request in flight")
            killed, backends = waiting_worker(service, server)
            killed.kill()
            assert isinstance(request.exception(), ConnectionError)
            # The other worker serves requests until a new one has started.
            assert {update(clients, "SN-1") for _ in range(50)} == {200}
            wait_until(lambda: len(service.workers()) == WORKERS, "a new worker")
            assert killed.pid not in service.workers()
            wait_until(
                lambda: backends.isdisjoint(server.backends().values()),
                "the connections of the killed worker to end",
            )
            locks = server.execute("SELECT pid FROM pg_locks")
            assert backends.isdisjoint(pid for [pid] in locks)
        assert server.metadata()["SN-0"] == {}
        assert update(clients) == 200


def waiting_worker(
    service: Service, server: Cluster
) -> tuple[psutil.Process, set[int]]:
    """Return the worker that waits for a lock, and its backends."""
    [port] = server.backends(WAITING)
    [worker] = [
        worker for worker in service.workers().values() if port in ports(worker, server)
    ]
    backends = server.backends()
    return worker, {backends[port] for port in ports(worker, server)}
