"""The connection pool: reconnecting, retries and timeouts."""

import io
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from flask import Flask
from prometheus_client import REGISTRY
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database, DatabaseError
from bulk_metadata.telemetry.context import context
from tests.conftest import DIRECT_ONLY, Organization, Post, connect
from tests.support.service import PATH

# The application name distinguishes the sessions of these tests from those of the
# shared service, whose log would contain a retry.
KILL = """
SELECT count(pg_terminate_backend(pid))
  FROM pg_stat_activity
 WHERE application_name = 'pool'
   AND datname = current_database()
   AND pid <> pg_backend_pid()
"""


def backend_pid(cursor: Cursor) -> int:
    return cursor.connection.info.backend_pid


@pytest.fixture
def config(config: Config) -> Config:
    url = make_dsn(config.database_url, application_name="pool")
    return replace(config, database_url=url)


@pytest.fixture
def app(config: Config) -> Flask:
    return create_app(config)


@pytest.fixture
def database(config: Config) -> Database:
    return Database(replace(config, pool_size=2))


@pytest.fixture
def other(owner_url: str) -> Iterator[Connection]:
    """Another session, which may hold locks."""
    connection = connect(owner_url)
    connection.autocommit = False
    yield connection
    connection.close()


def test_connection_is_reused(database: Database) -> None:
    assert database.run(backend_pid) == database.run(backend_pid)


def test_pool_connects_on_first_query(config: Config) -> None:
    create_app(replace(config, database_url="postgresql://127.0.0.1:1/down"))


def test_broken_idle_connection_is_replaced(database: Database, cursor: Cursor) -> None:
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(database.run, [backend_pid] * 10))
    cursor.execute(KILL)
    for _ in range(4):
        database.run(backend_pid)


def test_terminated_idle_sessions_fail_no_request(
    post: Post, acme: Organization, cursor: Cursor
) -> None:
    for _ in range(4):
        assert post({"devices": {"SN-1": {}}}).status_code == 200
        cursor.execute(KILL)
    # PgBouncer may notice the last sessions now, instead of in the next test.
    assert post({"devices": {"SN-1": {}}}).status_code == 200


def test_query_fails_after_two_broken_connections(database: Database) -> None:
    def die(cursor: Cursor) -> None:
        deaths.append(cursor.connection.info.backend_pid)
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    database.run(backend_pid)
    deaths: list[int] = []
    with pytest.raises(DatabaseError, match=r"57P01|server closed the connection"):
        database.run(die)
    # The second attempt has a new connection. The slot of the pool is free again.
    assert len(set(deaths)) == 2
    database.run(backend_pid)


def test_silently_broken_connection_is_replaced(database: Database) -> None:
    """psycopg2 does not notice a crash of the server at the first error."""

    def break_socket(cursor: Cursor) -> str:
        if not broken:
            broken.append(True)
            with socket.socket(fileno=os.dup(cursor.connection.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)
        cursor.execute("SELECT 'done'")
        [[result]] = cursor.fetchall()
        return str(result)

    database.run(backend_pid)
    broken: list[bool] = []
    before = retries("connection")
    assert database.run(break_socket) == "done"
    assert retries("connection") == before + 1


def test_connection_to_read_only_server_is_closed(
    database: Database, cursor: Cursor
) -> None:
    """Another host in DATABASE_URL may be writable, or the same one later."""

    def write(cursor: Cursor) -> None:
        cursor.execute(
            "SET LOCAL transaction_read_only = on;UPDATE devices SET updated_at = now()"
        )

    first = database.run(backend_pid)
    with pytest.raises(DatabaseError, match="25006"):
        database.run(write)
    assert database.run(backend_pid) != first


def test_missing_response_times_out(
    config: Config, cursor: Cursor, caplog: pytest.LogCaptureFixture
) -> None:
    """A suspended server does not enforce its timeouts."""
    database = Database(
        replace(config, lock_timeout=1, statement_timeout=2, answer_timeout=3)
    )

    def hang(cursor: Cursor) -> None:
        # One message: a pooler may use another session for the next one.
        cursor.execute("SET LOCAL statement_timeout = 0; SELECT pg_sleep(60)")

    with pytest.raises(DatabaseError):
        database.run(hang)
    assert "PostgreSQL did not respond within 3 s" in caplog.text
    database.run(backend_pid)
    cursor.execute(KILL)


def test_conflict_is_not_retried_after_timeout(config: Config) -> None:
    database = Database(replace(config, lock_timeout=1, statement_timeout=2))

    def collide(cursor: Cursor) -> None:
        attempts.append(True)
        cursor.execute(
            "SET LOCAL statement_timeout = 0;"
            "DO 'BEGIN PERFORM pg_sleep(2.1); RAISE SQLSTATE ''40P01''; END'"
        )

    attempts: list[bool] = []
    with pytest.raises(DatabaseError, match="40P01"):
        database.run(collide)
    assert len(attempts) == 1


def conflict(state: str, times: int) -> Callable[[Cursor], str]:
    """Return a query that fails with a conflict in its first attempts."""
    conflicts = iter([state] * times)

    def query(cursor: Cursor) -> str:
        for state in conflicts:
            cursor.execute(f"DO 'BEGIN RAISE SQLSTATE ''{state}''; END'")
        return "done"

    return query


def retries(cause: str) -> float:
    """Return the value of the metric."""
    name = "bulk_metadata_retries_total"
    return REGISTRY.get_sample_value(name, {"cause": cause}) or 0


@pytest.mark.parametrize(
    ("state", "cause"), [("40P01", "deadlock"), ("40001", "serialization")]
)
def test_conflict_is_retried(state: str, cause: str, database: Database) -> None:
    before = retries(cause)
    context.begin("POST", PATH, None)
    assert database.run(conflict(state, times=5)) == "done"
    assert context.retries == 5
    assert retries(cause) == before + 5
    with pytest.raises(DatabaseError, match=state):
        database.run(conflict(state, times=6))


def test_other_error_is_not_retried(database: Database) -> None:
    with pytest.raises(DatabaseError, match="23505"):
        database.run(conflict("23505", times=1))


def test_slow_statement_is_canceled(config: Config) -> None:
    database = Database(replace(config, lock_timeout=1, statement_timeout=2))
    with pytest.raises(DatabaseError, match="57014: canceling statement due to st"):
        database.run(lambda cursor: cursor.execute("SELECT pg_sleep(20)"))


def send(config: Config, acme: Organization) -> tuple[int, object]:
    response = (
        create_app(config)
        .test_client()
        .post(
            PATH,
            data='{"devices": {"SN-1": {"a": 1}}}',
            headers={"x-api-key": acme.key},
        )
    )
    return response.status_code, response.json


FAILURE = (500, {"error": "Internal server error"})


def test_locked_row_times_out_without_residue(
    config: Config, acme: Organization, other: Connection, log: io.StringIO
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    with other.cursor() as locker:
        locker.execute("SELECT FROM devices FOR UPDATE")
        assert send(replace(config, lock_timeout=1), acme) == FAILURE
    assert "55P03: canceling statement due to lock timeout" in log.getvalue()
    assert acme.rows() == before
    other.rollback()
    assert send(config, acme)[0] == 200


def test_exhausted_pool_times_out(config: Config) -> None:
    database = Database(replace(config, pool_size=1, pool_timeout=1))

    def hold(cursor: Cursor) -> None:
        with pytest.raises(DatabaseError, match="all connections are in use"):
            database.run(backend_pid)

    database.run(hold)
    database.run(backend_pid)


def test_request_fails_if_database_is_down(
    config: Config, acme: Organization, log: io.StringIO
) -> None:
    down = replace(config, database_url="postgresql://127.0.0.1:1/down")
    assert send(down, acme) == FAILURE
    assert "Connection refused" in log.getvalue()


@DIRECT_ONLY
def test_settings_of_url_are_kept(config: Config) -> None:
    url = make_dsn(
        config.database_url,
        application_name="ops",
        options="-c work_mem=123kB",
        client_encoding="LATIN1",
    )
    database = Database(replace(config, database_url=url))

    def settings(cursor: Cursor) -> list[str]:
        names = [
            "application_name",
            "work_mem",
            "enable_seqscan",
            "lock_timeout",
            "client_encoding",
        ]
        cursor.execute(
            "SELECT array_agg(current_setting(name) ORDER BY number)"
            " FROM unnest(%s) WITH ORDINALITY AS names (name, number)",
            (names,),
        )
        [[values]] = cursor.fetchall()
        return list(values)

    assert database.run(settings) == ["ops", "123kB", "off", "4s", "UTF8"]
