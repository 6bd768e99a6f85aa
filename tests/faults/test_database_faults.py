"""Requests while PostgreSQL, or the network to it, fails and recovers."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests.faults.conftest import CONNECTIONS, LONG, SHORT, run_clients
from tests.support.cluster import SESSIONS, Cluster
from tests.support.concurrent_clients import CLIENTS, STEP, ConcurrentClients, lock
from tests.support.service import ROOT
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

# Seconds. The longest response time under any single fault.
LONGEST_RESPONSE = 15

# Locks one device of each client, in the order of the service, so that its statement
# waits while it has locked other rows.
LOCK_DEVICES = (
    "SELECT FROM devices WHERE identifier IN ("
    + ", ".join(f"'SN-{client * STEP + 2}'" for client in range(CLIENTS))
    + ") ORDER BY identifier FOR UPDATE"
)
TERMINATE = f"SELECT count(pg_terminate_backend(pid)) FROM {SESSIONS}"
# Sessions of the service that hold a lock or are not idle.
RESIDUE = (
    f"{SESSIONS} AND (state <> 'idle'"
    " OR EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid))"
)


def terminate_connections(server: Cluster) -> None:
    """End all connections, as servers and firewalls do with idle ones."""
    server.execute(TERMINATE)
    wait_until(lambda: not server.backends(), "the connections to end")


def restart(server: Cluster) -> None:
    server.restart()


def crash(server: Cluster) -> None:
    server.restart("immediate")


def kill_backend(server: Cluster) -> None:
    """PostgreSQL then ends all connections, because shared memory may be damaged."""
    with closing(server.connect()) as witness:
        psutil.Process(next(iter(server.backends().values()))).kill()
        wait_until(lambda: is_broken(witness), "the connections to end")
    wait_until(lambda: accepts(server), "the server to accept connections")


def is_broken(connection: psycopg2.extensions.connection) -> bool:
    try:
        connection.cursor().execute("SELECT")
    except psycopg2.Error:
        return True
    return False


def accepts(server: Cluster) -> bool:
    try:
        server.connect().close()
    except psycopg2.OperationalError:
        return False
    return True


@pytest.mark.parametrize("fault", [terminate_connections, restart, crash, kill_backend])
def test_requests_succeed_after_connections_broke(
    server: Cluster, directory: Path, fault: Callable[[Cluster], None]
) -> None:
    with run_clients(server, directory, **LONG) as (_, clients):
        assert clients.open_connections(server, CONNECTIONS) == {200}
        fault(server)
        # All pooled connections are broken, and all are needed.
        assert clients.open_connections(server, CONNECTIONS) == {200}
        assert clients.burst() == {200}


def test_terminated_statements_are_atomic(server: Cluster, directory: Path) -> None:
    with run_clients(server, directory) as (_, clients):
        with clients.writing():
            for _ in range(4):
                clients.wait_for_more()
                with lock(server, LOCK_DEVICES):
                    # Some requests are retried, wait again and are terminated again.
                    for _ in range(3):
                        wait_until(lambda: server.waiting() > 0, "waiting statements")
                        server.execute(TERMINATE)
        assert server.count(RESIDUE) == 0
    assert clients.slowest < LONGEST_RESPONSE
    clients.check(server.metadata())


def test_crash_under_load_keeps_acknowledged_requests(
    server: Cluster, directory: Path
) -> None:
    with run_clients(server, directory) as (_, clients), clients.writing():
        for fault in (crash, restart):
            clients.wait_for_more()
            fault(server)
    assert clients.slowest < LONGEST_RESPONSE
    clients.check(server.metadata())


@pytest.mark.parametrize("is_started_first", [True, False])
def test_requests_fail_fast_while_server_is_down(
    server: Cluster, directory: Path, is_started_first: bool
) -> None:
    with run_clients(server, directory) as (_, clients):
        if is_started_first:
            assert clients.burst() == {200}
        server.stop()
        for _ in range(2):
            assert clients.burst() == {500}
        assert clients.slowest < 5
        server.start()
        for _ in range(5):
            assert clients.burst() == {200}


def test_connection_limit_fails_only_excess_requests(
    server: Cluster, directory: Path
) -> None:
    limit = "ALTER ROLE bulk_metadata_service CONNECTION LIMIT"
    with run_clients(server, directory, **LONG) as (_, clients):
        server.execute(f"{limit} 2")
        with lock(server, LOCK_DEVICES):
            requests = [clients.start(client) for client in range(CLIENTS)]

            def failed() -> list[int]:
                return [request.result() for request in requests if request.done()]

            wait_until(lambda: len(failed()) >= CLIENTS - 2, "the excess requests")
            assert set(failed()) == {500}
        assert {request.result() for request in requests} <= {200, 500}
        server.execute(f"{limit} -1")
        assert clients.open_connections(server, CONNECTIONS) == {200}


def test_exhausted_server_is_used_again(server: Cluster, directory: Path) -> None:
    few = {"max_connections": "8", "superuser_reserved_connections": "4"}
    many = {"max_connections": "100", "superuser_reserved_connections": "3"}
    with run_clients(server, directory, **LONG) as (_, clients):
        server.configure(**few)
        server.restart()
        with clients.writing():
            wait_until(lambda: 500 in clients.statuses, "a failed request")
        clients.check(server.metadata())
        server.configure(**many)
        server.restart()
        assert clients.open_connections(server, CONNECTIONS) == {200}


READ_ONLY = "default_transaction_read_only"


def test_read_only_connections_are_replaced_after_failover(
    server: Cluster, directory: Path
) -> None:
    with run_clients(server, directory) as (_, clients):
        assert clients.burst() == {200}
        # The setting applies to new connections, as after a failover to a standby.
        server.execute(f"ALTER DATABASE postgres SET {READ_ONLY} = on")
        terminate_connections(server)
        for _ in range(2):
            assert clients.burst() == {500}
        server.execute(f"ALTER DATABASE postgres RESET {READ_ONLY}")
        # Lookups of API keys left some read-only connections in the pool.
        for _ in range(5):
            assert clients.burst() == {200}
    assert clients.slowest < LONGEST_RESPONSE


def test_temporarily_read_only_server_recovers(
    server: Cluster, directory: Path
) -> None:
    with run_clients(server, directory) as (_, clients):
        assert clients.burst() == {200}
        # Each session applies the setting before its next statement.
        server.execute(f"ALTER SYSTEM SET {READ_ONLY} = on", "SELECT pg_reload_conf()")
        wait_until(lambda: clients.burst() == {500}, "read-only connections")
        server.execute(f"ALTER SYSTEM RESET {READ_ONLY}", "SELECT pg_reload_conf()")
        wait_until(lambda: clients.burst() == {200}, "writable connections")
        for _ in range(5):
            assert clients.burst() == {200}


@contextmanager
def slow_trigger(server: Cluster) -> Iterator[None]:
    """Make updates of some devices slower than STATEMENT_TIMEOUT."""
    server.execute(
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(60); RETURN new; END'",
        "CREATE TRIGGER sleep BEFORE UPDATE ON devices FOR EACH ROW"
        " WHEN (new.identifier LIKE '%2') EXECUTE FUNCTION sleep()",
    )
    yield
    server.execute("DROP FUNCTION sleep CASCADE")


@pytest.mark.parametrize(
    "obstacle",
    [slow_trigger, lambda server: lock(server, LOCK_DEVICES)],
    ids=["STATEMENT_TIMEOUT", "LOCK_TIMEOUT"],
)
def test_timed_out_statement_leaves_no_residue(
    server: Cluster,
    directory: Path,
    obstacle: Callable[[Cluster], AbstractContextManager[None]],
) -> None:
    with run_clients(server, directory, **SHORT) as (_, clients):
        with obstacle(server):
            assert clients.burst() == {500}
            assert server.count(RESIDUE) == 0
        assert set(map(str, server.metadata().values())) == {"{}"}
        assert clients.burst() == {200}


DAMAGES = {
    "REVOKE UPDATE ON devices FROM bulk_metadata_service": "SELECT",
    "REVOKE SELECT ON api_keys FROM bulk_metadata_service": "SELECT",
    "ALTER TABLE devices RENAME TO gone": "ALTER TABLE gone RENAME TO devices",
    "ALTER TABLE api_keys RENAME TO gone": "ALTER TABLE gone RENAME TO api_keys",
    "ALTER TABLE devices RENAME device_metadata TO gone": (
        "ALTER TABLE devices RENAME gone TO device_metadata"
    ),
}


def test_database_errors_are_logged_but_not_sent(
    server: Cluster, directory: Path
) -> None:
    with run_clients(server, directory) as (service, clients):
        for damage, repair in DAMAGES.items():
            assert clients.burst() == {200}
            server.execute(damage)
            assert clients.burst() == {500}
            server.execute(repair, (ROOT / "schema.sql").read_text())
        assert clients.burst() == {200}
        log = "".join(line.get("exception", "") for line in service.requests)
    assert "permission denied" in log
    # The log contains neither metadata nor API keys.
    assert '"number"' not in log
    assert clients.key not in log


@pytest.mark.slow(reason="two rounds of requests reach their timeout")
def test_unresponsive_server_times_out_and_recovers(
    server: Cluster, directory: Path
) -> None:
    with run_clients(server, directory, **SHORT) as (service, clients):
        assert clients.burst() == {200}
        server.suspend()
        try:
            check_timeouts(clients)
            assert service.request("{}", {"x-api-key": "x"}).status == 401
        finally:
            server.resume()
        assert clients.burst() == {200}


@pytest.mark.slow(reason="two rounds of requests reach their timeout")
def test_black_holed_connection_times_out_and_recovers(
    server: Cluster, directory: Path
) -> None:
    with tcp_proxy(server.port) as network:
        url = server.service_url.replace(str(server.port), str(network.port))
        with run_clients(server, directory, url, **SHORT) as (service, clients):
            assert clients.burst() == {200}
            network.block()
            check_timeouts(clients)
            # All threads are available again.
            for _ in range(CONNECTIONS):
                assert service.request("{}").status == 401
            network.unblock()
            for _ in range(5):
                assert clients.burst() == {200}


def check_timeouts(clients: ConcurrentClients) -> None:
    """Check that requests time out on open connections, then on new ones."""
    for _ in range(2):
        assert clients.burst() == {500}
    assert clients.slowest < LONGEST_RESPONSE


def test_black_hole_under_load_keeps_acknowledged_requests(
    server: Cluster, directory: Path
) -> None:
    with tcp_proxy(server.port) as network:
        url = server.service_url.replace(str(server.port), str(network.port))
        with run_clients(server, directory, url, **SHORT) as (_, clients):
            with clients.writing():
                network.block()
                wait_until(lambda: 500 in clients.statuses, "a failed request")
                network.unblock()
            assert clients.slowest < LONGEST_RESPONSE
            clients.check(server.metadata())
