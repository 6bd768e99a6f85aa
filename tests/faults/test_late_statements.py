"""Late statements: a request never takes effect after its 500 response.

The statement of an old request is held back in the network until the old request has
failed and a newer one has succeeded. Then the statement arrives.
"""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import psutil
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from tests.support.cluster import Cluster, cluster
from tests.support.proxies import PGBOUNCER, pgbouncer
from tests.support.service import PATH, ROOT, Service, run_service
from tests.support.tcp_proxy import ProxiedConnection, TcpProxy, tcp_proxy
from tests.support.waiting import free_port, suspend, wait_until

pytestmark = pytest.mark.faults

TIMEOUTS = {
    "LOCK_TIMEOUT": "1",
    "STATEMENT_TIMEOUT": "2",
    "ANSWER_TIMEOUT": "3",
    "REQUEST_TIMEOUT": "60",
}


# The guard failed, the service terminated the backend, or the dry run was idle.
ERROR = re.compile(b"C(22012|57P01|25P03)")


# Occurs only in the message with the UPDATE.
METADATA = b'"value"'


@dataclass
class Site:
    """A service whose connections to PostgreSQL pass through a proxy, and a device."""

    server: Cluster
    url: str
    network: TcpProxy
    directory: Path
    key: str
    executor: ThreadPoolExecutor

    @contextmanager
    def service(self, name: str, **settings: str) -> Iterator[Service]:
        url = make_dsn(self.url, port=self.network.port)
        settings = {"DATABASE_URL": url, **TIMEOUTS, **settings}
        with run_service(self.directory / name, **settings) as service:
            yield service

    def post(self, service: Service, value: str, query: str = "") -> int:
        """Send a request that sets the metadata of the device. Return the status."""
        headers = {"x-api-key": self.key}
        return service.request(body(value), headers, path=PATH + query).status

    def post_held(
        self, service: Service, query: str = ""
    ) -> tuple[Future[int], ProxiedConnection]:
        """Send the old request. Return it, and its UPDATE in the network."""
        self.network.held.clear()
        self.network.hold(METADATA)
        old = self.executor.submit(self.post, service, "old", query)
        wait_until(lambda: self.network.held, "the UPDATE")
        return old, self.network.held[0]

    def deliver(self, held: ProxiedConnection) -> None:
        """Deliver the UPDATE and wait for its error response."""
        held.deliver()
        self.wait_for_error(held)

    def wait_for_error(self, held: ProxiedConnection) -> None:
        """Wait for an error: the deadline has passed, or the backend is terminated."""
        wait_until(lambda: ERROR.search(held.response), "the error response")

    def wait_for_deadline(self, held: ProxiedConnection) -> None:
        query = "SELECT clock_timestamp() > to_timestamp(%s)"
        wait_until(lambda: self.ask(query, held.deadline) == [True], "the deadline")

    def stored(self) -> list[str]:
        return self.ask("SELECT device_metadata->>'value' FROM devices")

    def ask(self, query: str, *values: object) -> list[Any]:
        with closing(self.server.connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(query, values)
            return [value for [value] in cursor.fetchall()]


def body(value: str) -> str:
    return json.dumps({"devices": {"SN-0": {"value": value}}})


@contextmanager
def site_on(
    server: Cluster, directory: Path, url: str, network: TcpProxy
) -> Iterator[Site]:
    with ThreadPoolExecutor(4) as executor:
        yield Site(server, url, network, directory, server.prepare(devices=1), executor)


@pytest.fixture(scope="module")
def network(server: Cluster) -> Iterator[TcpProxy]:
    with tcp_proxy(server.port) as network:
        yield network


@pytest.fixture
def site(server: Cluster, directory: Path, network: TcpProxy) -> Iterator[Site]:
    with site_on(server, directory, server.service_url, network) as site:
        yield site


@pytest.fixture(scope="module")
def service(
    server: Cluster, network: TcpProxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service for the tests that do not stop it."""
    url = make_dsn(server.service_url, port=network.port)
    log = tmp_path_factory.mktemp("late") / "gunicorn"
    with run_service(log, DATABASE_URL=url, **TIMEOUTS) as service:
        yield service


@pytest.mark.parametrize("query", ["", "?dryRun=true"])
def test_update_delayed_by_network_has_no_effect(
    site: Site, service: Service, query: str
) -> None:
    old, held = site.post_held(service, query)
    assert old.result() == 500
    assert site.post(service, "new") == 200
    site.deliver(held)
    assert site.stored() == ["new"]


@pytest.mark.parametrize("suspended", ["backend", "server"])
def test_update_in_suspended_process_has_no_effect(
    site: Site, service: Service, suspended: str
) -> None:
    assert site.post(service, "new") == 200
    old, held = site.post_held(service)
    processes = site.server.processes()
    if suspended == "backend":
        [pid] = site.ask(
            "SELECT pid FROM pg_stat_activity WHERE client_port = %s", held.port
        )
        processes = [psutil.Process(pid)]
    suspend(*processes)
    held.deliver()
    assert old.result() == 500
    if suspended == "backend":
        assert site.post(service, "newer") == 200
    for process in processes:
        process.resume()
    site.wait_for_error(held)
    assert site.stored() == ["newer" if suspended == "backend" else "new"]


@pytest.mark.slow(reason="ANSWER_TIMEOUT is at least 3 s, and starts PgBouncer")
@pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer. To test it: apt-get install pgbouncer"
)
def test_update_in_suspended_pooler_has_no_effect(
    server: Cluster, directory: Path
) -> None:
    server.prepare(devices=1)  # creates the role
    [[secret]] = server.execute(
        "ALTER ROLE bulk_metadata_service PASSWORD 'for-tests-only'",
        "SELECT rolpassword FROM pg_authid WHERE rolname = 'bulk_metadata_service'",
    )
    url = server.service_url.replace("@", ":for-tests-only@")
    with (
        pgbouncer(url, secret) as pooled_url,
        tcp_proxy(int(parse_dsn(pooled_url)["port"])) as network,
        site_on(server, directory, pooled_url, network) as site,
        site.service("pooled") as service,
    ):
        [pooler] = [
            child
            for child in psutil.Process().children()
            if child.name() == "pgbouncer"
        ]
        assert site.post(service, "new") == 200
        old, held = site.post_held(service)
        suspend(pooler)
        held.deliver()
        assert old.result() == 500
        pooler.resume()
        site.wait_for_error(held)
        assert site.stored() == ["new"]


@pytest.mark.slow(reason="REQUEST_TIMEOUT is at least 4 s")
def test_update_may_exceed_request_timeout(site: Site) -> None:
    """The service does not disconnect a client during its update."""
    request = request_bytes(site, "slow")
    with (
        site.service("slow", REQUEST_TIMEOUT="4") as service,
        keep_alive(service) as client,
    ):
        client.sendall(request[:-10])
        wait_until(lambda: data_age(client) > 2000, "half of REQUEST_TIMEOUT")
        site.network.held.clear()
        site.network.hold(METADATA)
        client.sendall(request[-10:])
        assert client.recv(65536).startswith(b"HTTP/1.1 500 ")
        site.deliver(site.network.held[0])


def test_update_before_its_retry_has_no_effect(site: Site, service: Service) -> None:
    """The first copy of the statement arrives before its deadline."""
    old, held = site.post_held(service)
    held.reset_client()
    assert old.result() == 200
    assert site.post(service, "new") == 200
    site.deliver(held)
    assert site.stored() == ["new"]


@pytest.mark.slow(reason="ANSWER_TIMEOUT is at least 3 s, and gunicorn starts twice")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_update_of_stopped_gunicorn_has_no_effect(
    site: Site, number: signal.Signals
) -> None:
    with site.service("stopped", WORKERS="1") as service:
        old, held = site.post_held(service)
        processes = [psutil.Process(service.process.pid)]
        processes += processes[0].children()
        if number == signal.SIGKILL:
            for process in processes:
                process.kill()
            with pytest.raises((OSError, HTTPException)):
                old.result()
        else:
            service.process.send_signal(number)
            assert old.result() == 500
        with site.service("restarted") as restarted:
            assert site.post(restarted, "new") == 200
        site.wait_for_deadline(held)
        site.deliver(held)
        assert site.stored() == ["new"]


@pytest.mark.parametrize("sent_before", ["nothing", "half of the body"])
def test_suspended_worker_ignores_disconnected_client(
    site: Site, service: Service, sent_before: str
) -> None:
    """The worker is suspended before it reads the request, or between the API key
    lookup and the update."""
    request = request_bytes(site, sent_before)
    cut = 0 if sent_before == "nothing" else len(request) - 10
    with keep_alive(service) as client:
        client.sendall(request[:cut])
        if cut:
            wait_until(
                lambda: site.ask(
                    "SELECT query FROM pg_stat_activity WHERE state = 'idle'"
                    " AND query LIKE 'EXECUTE select_api_key%%'"
                ),
                "the API key lookup",
            )
        worker = worker_of(service, client)
        suspend(worker)
        client.sendall(request[cut:])
        assert site.post(service, "new") == 200
        # A client that closes its connection within 500 ms may only close one
        # direction.
        wait_until(lambda: data_age(client) > 600, "the timeout of the client")
        client.close()
        worker.resume()
        wait_until(
            lambda: [
                line for line in service.requests if line["requestId"] == sent_before
            ],
            "the old request",
        )
        [entry] = [
            line for line in service.requests if line["requestId"] == sent_before
        ]
        assert entry["status"] == 500
        assert "ClientDisconnectedError" in entry["exception"]
        assert site.stored() == ["new"]


def request_bytes(site: Site, request_id: str) -> bytes:
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: service\r\nx-api-key: {site.key}\r\n"
        f"X-Request-ID: {request_id}\r\nContent-Length: {len(body('old'))}\r\n\r\n"
    )
    return (head + body("old")).encode()


@contextmanager
def keep_alive(service: Service) -> Iterator[socket.socket]:
    """Yield a connection that a worker has accepted."""
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: service\r\n\r\n")
        response = b""
        while not response.endswith(b'{"status":"ok"}\n'):
            response += client.recv(65536)
        yield client


def worker_of(service: Service, client: socket.socket) -> psutil.Process:
    """Return the worker that serves the connection."""
    port = client.getsockname()[1]
    [worker] = [
        worker
        for worker in psutil.Process(service.process.pid).children()
        if any(
            connection.raddr and connection.raddr.port == port
            for connection in worker.net_connections("tcp")
        )
    ]
    return worker


def data_age(client: socket.socket) -> int:
    """Return the milliseconds since the client sent its last data."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 48)
    [age] = struct.unpack_from("I", info, 44)
    return int(age)


def test_commit_of_interrupted_command_has_no_effect(site: Site) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": make_dsn(site.server.url, port=site.network.port),
    }
    site.network.held.clear()
    site.network.hold(b"COMMIT")
    command = subprocess.Popen(
        [sys.executable, "-m", "flask", "create-organization", "Late"],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: site.network.held, "the COMMIT", command)
    [held] = site.network.held
    command.send_signal(signal.SIGINT)
    # The message was sent; psycopg2 does not interrupt the wait for its result.
    held.reset_client()
    command.communicate(timeout=60)
    assert command.returncode
    site.wait_for_deadline(held)
    site.deliver(held)
    assert site.ask("SELECT FROM organizations WHERE name = 'Late'") == []


FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


@pytest.mark.slow(reason="starts PostgreSQL and gunicorn")
@pytest.mark.skipif(
    FAKETIME is None, reason="a wrong clock. To test it: apt-get install faketime"
)
@pytest.mark.parametrize("offset", ["+3600", "-3600"])
def test_deadline_holds_if_clock_of_server_is_wrong(
    directory: Path, offset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME", offset)
    monkeypatch.setenv("FAKETIME_DONT_FAKE_MONOTONIC", "1")
    with cluster(directory / "wrong", free_port()) as server:
        monkeypatch.delenv("LD_PRELOAD")
        with (
            tcp_proxy(server.port) as network,
            site_on(server, directory, server.service_url, network) as site,
            site.service("service") as service,
        ):
            [shift] = site.ask("SELECT extract(epoch FROM clock_timestamp())::float8")
            assert abs(shift - time.time() - int(offset)) < 60
            old, held = site.post_held(service)
            assert old.result() == 500
            assert site.post(service, "new") == 200
            site.deliver(held)
            assert site.stored() == ["new"]
