"""Clients that send slowly or nothing, without and with nginx."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.conftest import Organization
from tests.support.concurrent_clients import KeepAliveClient
from tests.support.proxies import nginx
from tests.support.service import PATH, Service, run_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

CONNECTIONS = 50
BODY = b'{"devices": {"SN-1": {"a": 1}}}'
HALF_HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-Slow: ".encode()
# Two timeouts that a test must not reach, because it fails after 30 seconds.
ONE_THREAD = {
    "WORKERS": "1",
    "THREADS": "1",
    "REQUEST_TIMEOUT": "600",
    "GUNICORN_CMD_ARGS": "--keep-alive 600",
}
SHORT_TIMEOUTS = {
    "WORKERS": "1",
    "THREADS": "1",
    "LOCK_TIMEOUT": "1",
    "STATEMENT_TIMEOUT": "2",
    "ANSWER_TIMEOUT": "3",
    "REQUEST_TIMEOUT": "4",
    "GUNICORN_CMD_ARGS": "--keep-alive 2",
}


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


@contextmanager
def connections(
    service: Service, data: bytes, number: int = CONNECTIONS
) -> Iterator[list[socket.socket]]:
    """Open connections that send ``data``."""
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(service)) for _ in range(number)]
        for client in clients:
            client.sendall(data)
        yield clients


@contextmanager
def dripping(clients: list[socket.socket]) -> Iterator[None]:
    """Let the clients send one byte from time to time."""
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.2):
            for client in clients:
                try:
                    client.sendall(b"x")
                except OSError:
                    continue

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def is_open(client: socket.socket) -> bool:
    """Return whether the server has not closed the connection."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            continue
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def post(service: Service, acme: Organization) -> int:
    return service.request(BODY, {"x-api-key": acme.key}).status


def head(acme: Organization, length: int) -> bytes:
    start = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nx-api-key: {acme.key}\r\n"
    return f"{start}Content-Length: {length}\r\n\r\n".encode()


@contextmanager
def kept_connection(service: Service, acme: Organization) -> Iterator[KeepAliveClient]:
    """A client that has one connection, even if it closes."""
    with KeepAliveClient(service.port, acme.key) as client:
        client.connection.connect()
        client.connection.auto_open = False
        yield client


@pytest.mark.parametrize(
    "data",
    [b"", b"P", HALF_HEAD, b"hello\r\n\r\n", b"GET /healthz HTTP/1.1\r\n\r\nGET /"],
    ids=["nothing", "one byte", "half a head", "after a 400", "half of the next head"],
)
def test_silent_connections_do_not_delay_others(
    data: bytes, service_url: str, acme: Organization, tmp_path: Path
) -> None:
    """A single one that occupied the only thread would do so for ten minutes."""
    with (
        run_service(
            tmp_path / "log", DATABASE_URL=service_url, **ONE_THREAD
        ) as service,
        kept_connection(service, acme) as kept,
        connections(service, data),
    ):
        for _ in range(20):
            assert post(service, acme) == 200
            assert kept.post({"SN-1": {}}).status == 200


@pytest.mark.parametrize("data", [HALF_HEAD, b"GET /healthz HTTP/1.1\r\n\r\n"])
def test_incomplete_head_times_out(
    data: bytes, service_url: str, tmp_path: Path
) -> None:
    """Although the client continues to send, on a new or a kept connection."""
    settings = {"DATABASE_URL": service_url, **SHORT_TIMEOUTS}
    with (
        run_service(tmp_path / "log", **settings) as service,
        connections(service, data) as clients,
        dripping(clients),
    ):
        wait_until(lambda: not any(map(is_open, clients)), "closed connections")


def test_new_connection_replaces_oldest_at_limit(
    service_url: str, acme: Organization, tmp_path: Path
) -> None:
    options = f"{ONE_THREAD['GUNICORN_CMD_ARGS']} --worker-connections 20"
    settings = {**ONE_THREAD, "GUNICORN_CMD_ARGS": options}
    with (
        run_service(tmp_path / "log", DATABASE_URL=service_url, **settings) as service,
        kept_connection(service, acme) as kept,
    ):
        for _ in range(2):
            assert kept.post({"SN-1": {}}).status == 200
            with connections(service, HALF_HEAD) as clients:
                assert post(service, acme) == 200
                wait_until(lambda: sum(map(is_open, clients)) < 20, "the limit")
                assert not any(map(is_open, clients[:30]))
                assert is_open(clients[-1])


def test_lack_of_file_descriptors_closes_oldest(
    service_url: str, acme: Organization, tmp_path: Path
) -> None:
    with run_service(
        tmp_path / "log", DATABASE_URL=service_url, **ONE_THREAD
    ) as service:
        assert post(service, acme) == 200
        [worker] = service.workers().values()
        limit = worker.num_fds() + 20
        _, maximum = worker.rlimit(psutil.RLIMIT_NOFILE)
        worker.rlimit(psutil.RLIMIT_NOFILE, (limit, maximum))
        with connections(service, HALF_HEAD) as clients:
            assert post(service, acme) == 200
            assert is_open(clients[-1])
        assert list(service.workers()) == [worker.pid]


@pytest.mark.slow(reason="REQUEST_TIMEOUT is at least 4 s")
def test_slow_body_times_out(
    service_url: str, acme: Organization, tmp_path: Path
) -> None:
    """The threads serve the next request, and the client gets no response."""
    settings = {"DATABASE_URL": service_url, **SHORT_TIMEOUTS, "THREADS": "2"}
    with (
        run_service(tmp_path / "log", **settings) as service,
        connections(service, head(acme, 100_000), 2) as clients,
        dripping(clients),
    ):
        assert post(service, acme) == 200
        assert not any(client.recv(65536) for client in clients)
        log = service.log.read_text()
    assert log.count("A request body timed out after 4 s") == len(clients)
    assert "Traceback" not in log


@pytest.mark.slow(reason="REQUEST_TIMEOUT is at least 4 s")
def test_unread_response_times_out(
    service_url: str, acme: Organization, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": service_url, **SHORT_TIMEOUTS}
    # A response of 9 MB, more than the buffers of a connection.
    body = json.dumps({"devices": {"x" * 9_000_000: {}}}).encode()
    with (
        run_service(tmp_path / "log", **settings) as service,
        connections(service, head(acme, len(body)) + body, 1),
    ):
        assert post(service, acme) == 200
        log = service.log.read_text()
    assert "A response timed out after 4 s" in log
    assert "Traceback" not in log


@pytest.fixture
def proxied(directory: Path, service: Service) -> Iterator[Service]:
    """The service behind nginx."""
    with nginx(directory, service) as proxied:
        yield proxied


SLOW_BODY = (
    f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode()
)


@pytest.mark.parametrize("data", [b"", HALF_HEAD, SLOW_BODY])
def test_slow_clients_of_nginx_do_not_delay_others(
    data: bytes, proxied: Service, acme: Organization
) -> None:
    with connections(proxied, data) as clients, dripping(clients if data else []):
        for _ in range(20):
            assert post(proxied, acme) == 200
        assert all(map(is_open, clients))


def test_nginx_preserves_contract(proxied: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    key = {"x-api-key": acme.key}
    response = proxied.request('{"devices": {"SN-1": {"a": "é"}}}'.encode(), key)
    assert (response.status, response.json["updated"]) == (200, 1)
    assert acme.metadata() == {"SN-1": {"a": "é"}}
    for body, headers, status, message in (
        (b"{", key, 400, "Invalid JSON payload"),
        (b"{", {}, 401, "Invalid or missing API key"),
        (b"{", {"x-api-key": "x" * 8192}, 401, "Invalid or missing API key"),
        (
            b" " * 10_485_761,
            key,
            413,
            "Request body too large. Maximum 10485760 bytes",
        ),
    ):
        response = proxied.request(body, headers)
        assert (response.status, response.json) == (status, {"error": message})
        assert response.headers["Content-Type"] == "application/json"
    for method in ("TRACE", "GET"):
        response = proxied.request(method=method)
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert response.json == {"error": "Method Not Allowed"}


def test_nginx_responds_500_if_service_is_down(
    directory: Path, service_url: str
) -> None:
    with run_service(directory / "log", DATABASE_URL=service_url) as service:
        stopped = service
    with nginx(directory, stopped) as proxied:
        response = proxied.request("{}")
        assert (response.status, response.json) == (
            500,
            {"error": "Internal server error"},
        )
