"""What callers see while PostgreSQL, or the network before it, fails."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.schema import apply_schema
from tests.support.cluster import Cluster, cluster
from tests.support.concurrent_clients import (
    CLIENTS,
    CONNECTIONS,
    DEVICES,
    GROUP,
    PROMISE,
    Clients,
    ask,
    clients,
    execute,
    holding,
    residue,
    stored,
    waiting,
)
from tests.support.tcp_proxy import tcp_proxy
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.faults

Fault = Callable[[Cluster, str], None]

# For tests in which calls must wait for a lock as long as the machine needs to send
# them all: what they show has nothing to do with the limits.
PATIENT = {
    "LOCK_TIMEOUT": "40",
    "STATEMENT_TIMEOUT": "50",
    "ANSWER_TIMEOUT": "60",
    "REQUEST_TIMEOUT": "90",
}

# The third device of each client: its statement stops there with two rows locked.
HOLD_ROWS = (
    "SELECT FROM devices WHERE identifier IN ("
    + ", ".join(f"'SN-{client * GROUP + 2}'" for client in range(CLIENTS))
    + ") FOR UPDATE"
)

TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE application_name = 'bulk-metadata'"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """One server for all these tests: each leaves it running, as it found it. Made and
    stopped anew for each, it would take more time than all of them."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    with cluster(folder / "primary", free_port()) as server:
        yield server
    shutil.rmtree(folder)


def prepare(server: Cluster) -> str:
    """Make the clients' devices anew, and return their organization's key."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        apply_schema(cursor)
        cursor.execute("TRUNCATE organizations CASCADE")
    return server.prepare(DEVICES)


@contextmanager
def run_clients(server: Cluster, folder: Path, **settings: str) -> Iterator[Clients]:
    key = prepare(server)
    with clients(key, server.service_url, folder, **settings) as callers:
        yield callers


def start_over(server: Cluster, mode: str) -> None:
    server.stop(mode)
    server.start()


def drop_idle(server: Cluster, _: str) -> None:
    """End every connection, as servers and firewalls do with idle ones."""
    execute(server, TERMINATE)
    wait_until(lambda: sessions(server) == 0)


def kill_one_backend(server: Cluster, _: str) -> None:
    """PostgreSQL then ends all of them, for what they share may be damaged."""
    with closing(server.connect()) as witness, witness.cursor() as cursor:
        psutil.Process(ask(server, SOME_BACKEND)).kill()
        wait_until(lambda: not answers(cursor))
    wait_until(lambda: accepts(server))


SOME_BACKEND = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'bulk-metadata' LIMIT 1"
)


def answers(cursor: Cursor) -> bool:
    try:
        cursor.execute("SELECT")
    except psycopg2.Error:
        return False
    return True


def accepts(server: Cluster) -> bool:
    try:
        server.connect().close()
    except psycopg2.OperationalError:
        return False
    return True


def sessions(server: Cluster) -> int:
    return ask(
        server,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'bulk-metadata'",
    )


@pytest.mark.parametrize(
    ("fault", "mode"),
    [
        pytest.param(drop_idle, "", id="idle connections dropped"),
        pytest.param(start_over, "fast", id="restart"),
        pytest.param(start_over, "immediate", id="crash"),
        pytest.param(kill_one_backend, "", id="backend killed"),
    ],
)
def test_no_call_fails_after_all_connections_broke_between_calls(
    server: Cluster, folder: Path, fault: Fault, mode: str
) -> None:
    with run_clients(server, folder, **PATIENT) as callers:
        assert callers.warm(server) == {200}
        fault(server, mode)
        # Every connection of every pool is dead, and every one is needed.
        assert callers.warm(server) == {200}
        assert callers.burst() == {200}


def test_statements_terminated_in_the_middle_are_done_whole_or_not_at_all(
    server: Cluster, folder: Path
) -> None:
    with run_clients(server, folder) as callers:
        with callers.writing():
            for _ in range(4):
                callers.wait_for_more()
                with holding(server, HOLD_ROWS):
                    # Some calls are tried again, wait again and are hit again.
                    for _ in range(3):
                        wait_until(lambda: waiting(server) > 0)
                        execute(server, TERMINATE)
                stored(server)
            callers.wait_for_more()
        assert residue(server) == 0
    assert callers.worst < PROMISE
    callers.check(server)


def test_a_crash_under_load_loses_nothing_that_was_acknowledged(
    server: Cluster, folder: Path
) -> None:
    with run_clients(server, folder) as callers, callers.writing():
        for mode in ("immediate", "fast"):
            callers.wait_for_more()
            start_over(server, mode)
        callers.wait_for_more()
    assert callers.worst < PROMISE
    callers.check(server)


def fails_at_once_and_recovers(server: Cluster, callers: Clients) -> None:
    """Call while the server is down, and once it is started again."""
    assert callers.burst() == {500}
    assert callers.worst < 5
    server.start()
    for _ in range(5):
        assert callers.burst() == {200}


def test_while_the_server_is_down_calls_fail_at_once_and_recover_with_it(
    server: Cluster, folder: Path
) -> None:
    with run_clients(server, folder) as callers:
        assert callers.burst() == {200}
        server.stop()
        assert callers.burst() == {500}
        fails_at_once_and_recovers(server, callers)


def test_the_service_may_be_started_before_its_database(
    server: Cluster, folder: Path
) -> None:
    key = prepare(server)
    server.stop()
    with clients(key, server.service_url, folder) as callers:
        fails_at_once_and_recovers(server, callers)


def test_too_many_connections_fail_some_calls_and_no_more_than_those(
    server: Cluster, folder: Path
) -> None:
    with run_clients(server, folder, **PATIENT) as callers:
        limit = 2
        execute(server, f"ALTER ROLE bulk_metadata_service CONNECTION LIMIT {limit}")
        with holding(server, HOLD_ROWS):
            calls = [callers.start(client) for client in range(CLIENTS)]
            # Who has a connection waits for the rows; nobody else waits.
            wait_until(lambda: sum(call.done() for call in calls) >= CLIENTS - limit)
            failed = [call.result() for call in calls if call.done()]
            assert set(failed) == {500}
        assert {call.result() for call in calls} <= {200, 500}
        execute(server, "ALTER ROLE bulk_metadata_service CONNECTION LIMIT -1")
        assert callers.warm(server) == {200}


def test_a_server_that_takes_no_more_connections_is_used_again(
    folder: Path, server: Cluster
) -> None:
    key = prepare(server)
    server.configure(max_connections="8", superuser_reserved_connections="4")
    start_over(server, "fast")
    with clients(key, server.service_url, folder, **PATIENT) as callers:
        with callers.writing():
            wait_until(lambda: 500 in callers.statuses)
            callers.wait_for_more()
        callers.check(server)
        server.configure(max_connections="100", superuser_reserved_connections="3")
        start_over(server, "fast")
        assert callers.warm(server) == {200}


def test_connections_that_only_read_are_replaced_as_soon_as_others_write(
    server: Cluster, folder: Path
) -> None:
    setting = "default_transaction_read_only"
    with run_clients(server, folder) as callers:
        assert callers.burst() == {200}
        # Holds for new connections, so the old ones are ended: like a failover to a
        # server that is not ready to write.
        execute(server, f"ALTER DATABASE postgres SET {setting} = on", TERMINATE)
        wait_until(lambda: sessions(server) == 0)
        assert callers.burst() == {500}
        assert callers.burst() == {500}
        assert callers.worst < PROMISE
        execute(server, f"ALTER DATABASE postgres RESET {setting}")
        # Some connections of the pool still only read: they led to the calls' keys.
        for _ in range(5):
            assert callers.burst() == {200}


def test_connections_survive_a_server_that_reads_only_for_a_while(
    server: Cluster, folder: Path
) -> None:
    setting = "default_transaction_read_only"
    shown = f"SELECT current_setting('{setting}')::boolean::int"
    with run_clients(server, folder) as callers:
        assert callers.burst() == {200}
        execute(server, f"ALTER SYSTEM SET {setting} = on", "SELECT pg_reload_conf()")
        wait_until(lambda: ask(server, shown) == 1)
        # Each session takes the new setting up when it is next asked something.
        wait_until(lambda: callers.burst() == {500})
        execute(server, f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")
        wait_until(lambda: ask(server, shown) == 0)
        wait_until(lambda: callers.burst() == {200})
        for _ in range(5):
            assert callers.burst() == {200}


SLOW = """
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(60); RETURN new; END';
CREATE TRIGGER sleep BEFORE UPDATE ON devices FOR EACH ROW
    WHEN (new.identifier LIKE '%2') EXECUTE FUNCTION sleep();
"""


def test_a_statement_over_its_limit_leaves_nothing_behind(
    server: Cluster, folder: Path
) -> None:
    with run_clients(
        server, folder, LOCK_TIMEOUT="1", STATEMENT_TIMEOUT="2"
    ) as callers:
        execute(server, SLOW)
        assert callers.call(0, number=1) == 500
        assert residue(server) == 0
        assert stored(server)[0] == 0
        execute(server, "DROP FUNCTION sleep CASCADE")
        assert callers.call(0, number=2) == 200
        assert callers.worst < PROMISE


def test_a_row_that_stays_locked_leaves_nothing_behind(
    server: Cluster, folder: Path
) -> None:
    with run_clients(server, folder, LOCK_TIMEOUT="1") as callers:
        with holding(server, HOLD_ROWS):
            assert callers.burst() == {500}
            assert residue(server) == 0
        assert set(stored(server)) == {0}
        assert callers.burst() == {200}
        assert callers.worst < PROMISE


DAMAGES = {
    "REVOKE UPDATE ON devices FROM bulk_metadata_service": "",
    "REVOKE SELECT ON api_keys FROM bulk_metadata_service": "",
    "ALTER TABLE devices RENAME TO gone": "ALTER TABLE gone RENAME TO devices",
    "ALTER TABLE api_keys RENAME TO gone": "ALTER TABLE gone RENAME TO api_keys",
    "ALTER TABLE devices RENAME device_metadata TO gone": (
        "ALTER TABLE devices RENAME gone TO device_metadata"
    ),
}


def test_what_is_missing_in_the_database_never_shows_in_an_answer(
    server: Cluster, folder: Path
) -> None:
    with run_clients(server, folder) as callers:
        for damage, repair in DAMAGES.items():
            assert callers.burst() == {200}
            execute(server, damage)
            # Each answer is compared with the sentence that says nothing.
            assert callers.burst() == {500}
            execute(server, *filter(None, [repair]))
            grant(server)
        assert callers.burst() == {200}
        log = "".join(line.get("exception", "") for line in callers.service.requests)
    assert "permission denied" in log
    # What clients send, and their keys, are nobody's business there either.
    assert '"number"' not in log
    assert callers.key not in log


def grant(server: Cluster) -> None:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        apply_schema(cursor)


def test_a_network_that_swallows_everything_is_given_up_and_used_again(
    server: Cluster, folder: Path
) -> None:
    key = prepare(server)
    with tcp_proxy(server.port) as network:
        url = server.service_url.replace(str(server.port), str(network.port))
        with clients(key, url, folder) as callers:
            assert callers.burst() == {200}
            network.block()
            # First open connections fall silent, then new ones.
            for _ in range(2):
                assert callers.burst() == {500}
            assert callers.worst < PROMISE
            # The threads are back: all of them answer who needs no database.
            for _ in range(CONNECTIONS):
                assert callers.service.request("{}").status == 401
            network.unblock()
            for _ in range(5):
                assert callers.burst() == {200}


def test_a_network_that_falls_silent_under_load_loses_nothing_acknowledged(
    server: Cluster, folder: Path
) -> None:
    key = prepare(server)
    with tcp_proxy(server.port) as network:
        url = server.service_url.replace(str(server.port), str(network.port))
        with clients(key, url, folder) as callers:
            with callers.writing():
                callers.wait_for_more()
                network.block()
                wait_until(lambda: 500 in callers.statuses)
                network.unblock()
                callers.wait_for_more()
            assert callers.worst < PROMISE
            callers.check(server)
