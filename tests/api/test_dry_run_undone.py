"""However a dry run ends, nothing of it is left: no transaction, no lock, no row."""

import logging
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
from tests.support.cluster import wait_until
from tests.support.service import PATH

DOCUMENTS = {"SN-1": Raw(b'{"a": 1}'), "SN-2": Raw(b'{"a": 2}')}
BODY = b'{"devices": {"SN-1": {"a": 1}, "SN-2": {"a": 2}}}'

# The sessions of these tests have a name of their own: others are not to be ended.
SESSIONS = "FROM pg_stat_activity AS session WHERE application_name = 'dry run'"
KILL = f"SELECT pg_terminate_backend(pid) {SESSIONS}"
WAITING = f"SELECT pid {SESSIONS} AND wait_event_type = 'Lock'"
# What they hold, or are in the middle of.
RESIDUE = (
    f"SELECT state, query {SESSIONS} AND (state <> 'idle'"
    " OR EXISTS (SELECT FROM pg_locks WHERE pid = session.pid))"
)


@pytest.fixture
def config(config: Config) -> Config:
    url = make_dsn(config.database_url, application_name="dry run")
    return replace(config, database_url=url)


@pytest.fixture
def database(config: Config) -> Database:
    """A pool of one connection: who comes next gets what was left. It gives up late, so
    that no test depends on the machine's speed."""
    patient = replace(config, lock_timeout=40, statement_timeout=50, answer_timeout=60)
    return Database(replace(patient, pool_size=1))


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


LOCK_FIRST = "SELECT FROM devices WHERE identifier = 'SN-1' FOR UPDATE"


def lock_second(session: Connection) -> None:
    session.cursor().execute("SELECT FROM devices WHERE identifier = 'SN-2' FOR UPDATE")


@contextmanager
def nothing_left(organization: Organization) -> Iterator[None]:
    """See to it that what happens inside writes nothing, and leaves nothing open."""
    before = organization.rows()
    yield
    assert organization.rows() == before

    def residue() -> list[Any]:
        organization.cursor.execute(RESIDUE)
        return organization.cursor.fetchall()

    # A connection that was closed is noticed by the server when it looks.
    wait_until(lambda: not residue(), "the transaction to end")


def test_the_next_call_on_its_connection_is_committed(
    database: Database, two: Organization
) -> None:
    pid = database.run(backend_pid)
    with nothing_left(two):
        assert database.run(dry_run_update, two.id, DOCUMENTS) == two.ids()
    assert database.run(update_metadata, two.id, DOCUMENTS) == two.ids()
    assert database.run(backend_pid) == pid
    assert two.metadata() == {"SN-1": {"a": 1}, "SN-2": {"a": 2}}


def test_a_row_that_stays_locked_fails_it(
    config: Config,
    two: Organization,
    other: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = create_app(replace(config, lock_timeout=1, pool_size=1))

    def call(query: str) -> int:
        headers = {"x-api-key": two.key}
        client = app.test_client()
        return client.post(
            PATH, query_string=query, data=BODY, headers=headers
        ).status_code

    with nothing_left(two), caplog.at_level(logging.ERROR):
        lock_second(other)
        assert call("dryRun=true") == 500
        assert "55P03: canceling statement due to lock timeout" in caplog.text
        # The first one had been locked by then.
        two.cursor.execute(f"{LOCK_FIRST} NOWAIT")
        other.rollback()
        assert call("dryRun=true") == 200
    assert call("") == 200
    assert two.updated() == {"SN-1", "SN-2"}


Trigger = Callable[[str], None]


@pytest.fixture
def trigger(cursor: Cursor) -> Iterator[Trigger]:
    """Have the server do something whenever devices have been updated."""

    def create(does: str) -> None:
        cursor.execute("CREATE SEQUENCE conflicts")
        cursor.execute(
            "CREATE FUNCTION meanwhile() RETURNS trigger LANGUAGE plpgsql"
            f" SECURITY DEFINER AS $$ BEGIN {does}; RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE TRIGGER meanwhile AFTER UPDATE ON devices"
            " FOR EACH STATEMENT EXECUTE FUNCTION meanwhile()"
        )

    yield create
    cursor.execute("DROP FUNCTION IF EXISTS meanwhile CASCADE")
    cursor.execute("DROP SEQUENCE IF EXISTS conflicts")


def test_a_statement_over_its_limit_fails_it(
    config: Config, two: Organization, trigger: Trigger
) -> None:
    trigger("PERFORM pg_sleep(60)")
    database = Database(replace(config, statement_timeout=1))
    with nothing_left(two), pytest.raises(DatabaseError, match="57014: canceling"):
        database.run(dry_run_update, two.id, DOCUMENTS)


def test_an_answer_that_never_comes_is_given_up(
    config: Config,
    two: Organization,
    trigger: Trigger,
    caplog: pytest.LogCaptureFixture,
) -> None:
    trigger("PERFORM pg_sleep(60)")
    database = Database(replace(config, statement_timeout=60, answer_timeout=1))
    with nothing_left(two):
        with pytest.raises(DatabaseError):
            database.run(dry_run_update, two.id, DOCUMENTS)
        two.cursor.execute(KILL)
    assert "The response of PostgreSQL timed out after 1 s" in caplog.text


@pytest.mark.parametrize(
    ("state", "cause"), [("40P01", "deadlock"), ("40001", "serialization")]
)
def test_a_conflict_is_tried_again(
    state: str, cause: str, database: Database, two: Organization, trigger: Trigger
) -> None:
    """Five times; six are too many. A sequence counts them: no ROLLBACK undoes that."""
    trigger(f"IF nextval('conflicts') <> 6 THEN RAISE SQLSTATE '{state}'; END IF")
    before = retries(cause)
    with nothing_left(two):
        assert database.run(dry_run_update, two.id, DOCUMENTS) == two.ids()
        assert retries(cause) == before + 5
        with pytest.raises(DatabaseError, match=state):
            database.run(dry_run_update, two.id, DOCUMENTS)


def test_what_postgres_refuses_is_refused(
    config: Config, two: Organization, owner_url: str
) -> None:
    """And the same connection serves the next call, which is committed."""
    url = make_dsn(
        owner_url, application_name="dry run", options="-c max_stack_depth=100kB"
    )
    app = create_app(replace(config, database_url=url, pool_size=1))

    def call(query: str, metadata: bytes) -> tuple[int, Any]:
        response = app.test_client().post(
            PATH,
            query_string=query,
            data=b'{"devices": {"SN-1": {"a": %s}}}' % metadata,
            headers={"x-api-key": two.key},
        )
        return response.status_code, response.json

    with nothing_left(two):
        assert call("dryRun=true", b"[" * 800 + b"]" * 800) == (
            400,
            {"error": "Invalid JSON payload"},
        )
    assert call("", b"1")[0] == 200
    assert two.metadata()["SN-1"] == {"a": 1}


def test_connections_that_died_in_the_pool_are_replaced(
    database: Database, two: Organization
) -> None:
    with nothing_left(two):
        for _ in range(4):
            assert database.run(dry_run_update, two.id, DOCUMENTS) == two.ids()
            two.cursor.execute(KILL)
            assert two.cursor.rowcount >= 1


def waiting(cursor: Cursor, besides: int = 0) -> int:
    """Wait until a session waits for a lock, and return its process in the server."""
    found: list[int] = []

    def is_there() -> bool:
        cursor.execute(WAITING)
        found[:] = [pid for [pid] in cursor.fetchall() if pid != besides]
        return bool(found)

    wait_until(is_there, "a session to wait for a lock")
    return found[0]


@pytest.mark.parametrize("deaths", [1, 2])
def test_its_connection_dies_under_it(
    deaths: int, database: Database, two: Organization, other: Connection
) -> None:
    """Once: it is answered all the same. Twice: it is given up."""
    database.run(backend_pid)
    before = retries("connection")
    with nothing_left(two), ThreadPoolExecutor(1) as executor:
        lock_second(other)
        call = executor.submit(database.run, dry_run_update, two.id, DOCUMENTS)
        pid = 0
        for _ in range(deaths):
            pid = waiting(two.cursor, besides=pid)
            two.cursor.execute("SELECT pg_terminate_backend(%s)", (pid,))
        if deaths == 1:
            waiting(two.cursor, besides=pid)
            other.rollback()
            assert call.result() == two.ids()
        else:
            with pytest.raises(DatabaseError, match=r"57P01|server closed"):
                call.result()
            other.rollback()
    assert retries("connection") == before + 1
    assert database.run(update_metadata, two.id, DOCUMENTS) == two.ids()


Meanwhile = Callable[[Cursor, Cursor], None]


def terminate(_: Cursor, owner: Cursor) -> None:
    """End its session in the server."""
    owner.execute(KILL)

    def is_gone() -> bool:
        owner.execute(RESIDUE)
        return not owner.fetchall()

    wait_until(is_gone, "the session to end")


def hang_up(cursor: Cursor, _: Cursor) -> None:
    """Cut its connection, unnoticed by psycopg2."""
    with socket.socket(fileno=os.dup(cursor.connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def fail(cursor: Cursor, _: Cursor) -> None:
    """Fail in the place of the ROLLBACK, which leaves the transaction open."""
    with cursor.connection.cursor() as another:
        another.execute("SELECT 1 / 0")


def fall_silent(_: Cursor, owner: Cursor) -> None:
    """Send nothing until another session has the device that it keeps locked."""
    owner.execute(f"BEGIN; SET LOCAL lock_timeout = '60s'; {LOCK_FIRST}; COMMIT")


@pytest.mark.parametrize("meanwhile", [terminate, hang_up, fail, fall_silent])
def test_a_rollback_that_does_not_arrive_is_none_the_less_done(
    meanwhile: Meanwhile, database: Database, two: Organization
) -> None:
    """The answer is known by then; the connection is closed, and the server undoes what
    was done on it."""

    class Interrupted(psycopg2.extensions.cursor):
        def execute(self, query: Any, vars: Any = None) -> None:
            if query == "ROLLBACK":
                meanwhile(self, two.cursor)
            super().execute(query, vars)

    def interrupted(cursor: Cursor) -> dict[str, str]:
        connection = cursor.connection
        with connection.cursor(cursor_factory=Interrupted) as own:
            found = dry_run_update(own, two.id, DOCUMENTS)
        assert connection.closed
        return found

    with nothing_left(two):
        assert database.run(interrupted) == two.ids()
    assert database.run(update_metadata, two.id, DOCUMENTS) == two.ids()
    assert two.updated() == {"SN-1", "SN-2"}
