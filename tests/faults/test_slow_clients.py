"""Clients that send slowly or not at all: what the process bounds, what nginx takes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support.proxies import nginx
from tests.support.service import PATH, Service, run_service

pytestmark = pytest.mark.faults

# More than two workers have threads; and of those that are silent, so many that some
# seconds for each, as gunicorn itself would take, were too long for the others.
CLIENTS = {"silent": 200, "slow headers": 32, "slow body": 32}

START = {
    "silent": b"",
    "slow headers": f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-Slow: ".encode(),
    "slow body": (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode()
    ),
}


@contextmanager
def slow_clients(port: int, kind: str) -> Iterator[list[socket.socket]]:
    """Connect clients that send a byte now and then, except for the silent ones."""
    stop = threading.Event()
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            for _ in range(CLIENTS[kind])
        ]
        for client in clients:
            client.sendall(START[kind])

        def drip() -> None:
            while not stop.wait(0.2):
                for client in clients:
                    try:
                        client.sendall(b"x" if START[kind] else b"")
                    except OSError:
                        continue

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            yield clients
        finally:
            stop.set()
            dripping.join()


def is_open(client: socket.socket) -> bool:
    """Tell whether the other side has not hung up yet."""
    client.setblocking(False)
    try:
        return bool(client.recv(65536, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def call(service: Service, acme: Organization) -> int:
    headers = {"x-api-key": acme.key}
    return service.request('{"devices": {"SN-1": {"a": 1}}}', headers).status


@pytest.mark.parametrize("kind", START)
def test_the_process_serves_on_when_slow_clients_are_given_up(
    kind: str, service_url: str, acme: Organization, tmp_path: Path
) -> None:
    settings = {
        "DATABASE_URL": service_url,
        "LOCK_TIMEOUT": "1",
        "STATEMENT_TIMEOUT": "2",
        "ANSWER_TIMEOUT": "3",
        "REQUEST_TIMEOUT": "4",
        # As many as slow clients, so that these are given up all at once.
        "THREADS": "16",
    }
    with (
        run_service(tmp_path / "log", **settings) as service,
        slow_clients(service.port, kind),
    ):
        assert call(service, acme) == 200


@pytest.fixture
def proxied(folder: Path, service: Service) -> Iterator[Service]:
    """The service behind nginx."""
    with nginx(folder, service) as proxied:
        yield proxied


@pytest.mark.parametrize("kind", START)
def test_behind_nginx_slow_clients_cost_the_others_nothing(
    kind: str, proxied: Service, acme: Organization
) -> None:
    with slow_clients(proxied.port, kind) as clients:
        for _ in range(20):
            assert call(proxied, acme) == 200
        # And they are still at it.
        assert all(map(is_open, clients))


def test_behind_nginx_the_contract_holds(proxied: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    key = {"x-api-key": acme.key}
    answer = proxied.request('{"devices": {"SN-1": {"a": "é"}}}'.encode(), key)
    assert (answer.status, answer.json["updated"]) == (200, 1)
    assert acme.metadata() == {"SN-1": {"a": "é"}}
    for body, headers, status, sentence in (
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
        answer = proxied.request(body, headers)
        assert (answer.status, answer.json) == (status, {"error": sentence})
        assert answer.headers["Content-Type"] == "application/json"
    for method in ("TRACE", "GET"):
        answer = proxied.request(method=method)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert answer.json == {"error": "Method Not Allowed"}


def test_behind_nginx_a_service_that_is_gone_is_a_500(
    folder: Path, service_url: str
) -> None:
    with run_service(folder / "log", DATABASE_URL=service_url) as service:
        stopped = service
    with nginx(folder, stopped) as proxied:
        answer = proxied.request("{}")
        assert (answer.status, answer.json) == (500, {"error": "Internal server error"})
