"""Rollback of a dry run: it leaves no transaction, no lock and no row."""

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import psycopg2
import pytest
from msgspec import Raw
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database, DatabaseError
from bulk_metadata.db.queries import dry_run_update, update_metadata
from tests.conftest import Organization, connect
from tests.db.test_pool import backend_pid, retries
from tests.support.service import PATH
from tests.support.waiting import wait_until

DOCUMENTS = {"SN-1": Raw(b'{"a": 1}'), "SN-2": Raw(b'{"a": 2}')}

# The application name distinguishes the sessions of these tests, and the database those
# of other processes of pytest-xdist.
SESSIONS = (
    "FROM pg_stat_activity AS session"
    " WHERE application_name = 'dry run' AND datname = current_database()"
)
KILL = f"SELECT pg_terminate_backend(pid) {SESSIONS}"
WAITING = f"SELECT pid {SESSIONS} AND wait_event_type = 'Lock'"
# Sessions with a lock or an open transaction.
RESIDUE = (
    f"SELECT state, query {SESSIONS} AND (state <> 'idle'"
    " OR EXISTS (SELECT FROM pg_locks WHERE pid = session.pid))"
)
LOCK_FIRST = "SELECT FROM devices WHERE identifier = 'SN-1' FOR UPDATE"
LOCK_SECOND = "SELECT FROM devices WHERE identifier = 'SN-2' FOR UPDATE"


@pytest.fixture
def config(config: Config) -> Config:
    url = make_dsn(config.database_url, application_name="dry run")
    return replace(config, database_url=url)


@pytest.fixture
def database(config: Config) -> Database:
    """A pool of one connection, with timeouts that do not depend on the machine."""
    return Database(
        replace(
            config,
            lock_timeout=40,
            statement_timeout=50,
            answer_timeout=60,
            pool_size=1,
        )
    )


@pytest.fixture
def two(acme: Organization) -> Organization:
    """An organization with the two devices."""
    acme.insert("SN-1", "SN-2")
    return acme


@pytest.fixture
def other(owner_url: str) -> Iterator[Connection]:
    """Another session, which may hold locks."""
    with closing(connect(owner_url)) as connection:
        connection.autocommit = False
        yield connection


@contextmanager
def no_residue(organization: Organization) -> Iterator[None]:
    """Assert that the body writes nothing and leaves no transaction open."""
    before = organization.rows()
    yield
    assert organization.rows() == before

    def is_clean() -> bool:
        organization.cursor.execute(RESIDUE)
        return not organization.cursor.fetchall()

    # The server takes a moment to detect a closed connection.
    wait_until(is_clean, "the end of the transaction")


def test_request_after_dry_run_is_committed(
    database: Database, two: Organization
) -> None:
    pid = database.run(backend_pid)
    with no_residue(two):
        assert database.run(dry_run_update, two.id, DOCUMENTS) == two.ids()
    assert database.run(update_metadata, two.id, DOCUMENTS) == two.ids()
    assert database.run(backend_pid) == pid
    assert two.metadata() == {"SN-1": {"a": 1}, "SN-2": {"a": 2}}


Trigger = Callable[[str], None]


@pytest.fixture
def trigger(cursor: Cursor) -> Iterator[Trigger]:
    """A function that makes the server execute PL/pgSQL after each UPDATE."""

    def create(code: str) -> None:
        cursor.execute("CREATE SEQUENCE conflicts")
        cursor.execute(
            "CREATE FUNCTION after_update() RETURNS trigger LANGUAGE plpgsql"
            f" SECURITY DEFINER AS $$ BEGIN {code}; RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER after_update AFTER UPDATE ON devices"
            " FOR EACH STATEMENT EXECUTE FUNCTION after_update()"
        )

    yield create
    cursor.execute("DROP FUNCTION IF EXISTS after_update CASCADE")
    cursor.execute("DROP SEQUENCE IF EXISTS conflicts")


@pytest.mark.parametrize(
    ("timeouts", "message"),
    [
        ({"statement_timeout": 1}, "57014: canceling statement due to statement"),
        ({"statement_timeout": 60, "answer_timeout": 1}, None),
        ({"lock_timeout": 1}, "55P03: canceling statement due to lock timeout"),
    ],
)
def test_dry_run_that_times_out_is_rolled_back(
    timeouts: dict[str, int],
    message: str | None,
    config: Config,
    two: Organization,
    other: Connection,
    trigger: Trigger,
) -> None:
    if "lock_timeout" in timeouts:
        other.cursor().execute(LOCK_SECOND)
    else:
        trigger("PERFORM pg_sleep(60)")
    database = Database(replace(config, **timeouts))  # type: ignore[arg-type]  # ints
    with no_residue(two):
        with pytest.raises(DatabaseError, match=message):
            database.run(dry_run_update, two.id, DOCUMENTS)
        if not message:
            two.cursor.execute(KILL)
        # The statement had locked the first device.
        two.cursor.execute(f"BEGIN; {LOCK_FIRST}; COMMIT")


def test_conflict_of_dry_run_is_retried(
    database: Database, two: Organization, trigger: Trigger
) -> None:
    """The sequence counts the attempts: a ROLLBACK does not undo nextval."""
    trigger("IF nextval('conflicts') <> 6 THEN RAISE SQLSTATE '40P01'; END IF")
    before = retries("deadlock")
    with no_residue(two):
        assert database.run(dry_run_update, two.id, DOCUMENTS) == two.ids()
        assert retries("deadlock") == before + 5
        with pytest.raises(DatabaseError, match="40P01"):
            database.run(dry_run_update, two.id, DOCUMENTS)


def test_dry_run_rejects_deep_metadata(
    config: Config, two: Organization, owner_url: str
) -> None:
    """The same connection commits the next request."""
    url = make_dsn(
        owner_url, application_name="dry run", options="-c max_stack_depth=100kB"
    )
    app = create_app(replace(config, database_url=url, pool_size=1))

    def send(query: str, metadata: bytes) -> tuple[int, Any]:
        response = app.test_client().post(
            PATH,
            query_string=query,
            data=b'{"devices": {"SN-1": {"a": %s}}}' % metadata,
            headers={"x-api-key": two.key},
        )
        return response.status_code, response.json

    with no_residue(two):
        assert send("dryRun=true", b"[" * 800 + b"]" * 800) == (
            400,
            {"error": "Invalid JSON payload"},
        )
    assert send("", b"1")[0] == 200
    assert two.metadata()["SN-1"] == {"a": 1}


def waiting(cursor: Cursor, besides: int = 0) -> int:
    """Wait until a session waits for a lock, and return its process ID."""
    found: list[int] = []

    def is_found() -> bool:
        cursor.execute(WAITING)
        found[:] = [pid for [pid] in cursor.fetchall() if pid != besides]
        return bool(found)

    wait_until(is_found, "a session that waits for a lock")
    return found[0]


@pytest.mark.parametrize("terminations", [1, 2])
def test_dry_run_is_retried_after_broken_connection(
    terminations: int, database: Database, two: Organization, other: Connection
) -> None:
    database.run(backend_pid)
    before = retries("connection")
    with no_residue(two), ThreadPoolExecutor(1) as executor:
        other.cursor().execute(LOCK_SECOND)
        result = executor.submit(
            lambda: database.run(dry_run_update, two.id, DOCUMENTS)
        )
        pid = 0
        for _ in range(terminations):
            pid = waiting(two.cursor, besides=pid)
            two.cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
        if terminations == 1:
            waiting(two.cursor, besides=pid)
            other.rollback()
            assert result.result() == two.ids()
        else:
            with pytest.raises(DatabaseError, match=r"57P01|server closed"):
                result.result()
            other.rollback()
    assert retries("connection") == before + 1
    assert database.run(update_metadata, two.id, DOCUMENTS) == two.ids()


Fault = Callable[[Cursor, Cursor], None]


def terminate(_: Cursor, owner: Cursor) -> None:
    """Terminate the backend."""
    owner.execute(KILL)

    def is_terminated() -> bool:
        owner.execute(RESIDUE)
        return not owner.fetchall()

    wait_until(is_terminated, "the end of the session")


def shut_down(cursor: Cursor, _: Cursor) -> None:
    """Shut down the socket, which psycopg2 does not notice."""
    with socket.socket(fileno=os.dup(cursor.connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def fail(cursor: Cursor, _: Cursor) -> None:
    """Fail instead of the ROLLBACK, so that the transaction stays open."""
    with cursor.connection.cursor() as another:
        another.execute("SELECT 1 / 0")


def stay_silent(_: Cursor, owner: Cursor) -> None:
    """Send nothing until another session has locked the device."""
    owner.execute(f"BEGIN; SET LOCAL lock_timeout = '60s'; {LOCK_FIRST}; COMMIT")


@pytest.mark.parametrize("fault", [terminate, shut_down, fail, stay_silent])
def test_lost_rollback_of_dry_run_is_done_by_server(
    fault: Fault, database: Database, two: Organization
) -> None:
    class FaultyCursor(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            if query == "ROLLBACK":
                fault(self, two.cursor)
            super().execute(query, vars)

    def faulty_dry_run(cursor: Cursor) -> dict[str, str]:
        connection = cursor.connection
        with connection.cursor(cursor_factory=FaultyCursor) as faulty:
            found = dry_run_update(faulty, two.id, DOCUMENTS)
        assert connection.closed
        return found

    with no_residue(two):
        assert database.run(faulty_dry_run) == two.ids()
    assert database.run(update_metadata, two.id, DOCUMENTS) == two.ids()
    assert two.updated() == {"SN-1", "SN-2"}
