"""Guards: a statement that starts after its deadline has no effect."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from msgspec import Raw
from psycopg2.errors import DivisionByZero, QueryCanceled
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest
from bulk_metadata.core.errors import ApiError
from bulk_metadata.db.prepared import Call, Statement, execute
from bulk_metadata.db.queries import (
    ApiKey,
    dry_run_update,
    guard_update,
    select_api_key,
    update_metadata,
)
from bulk_metadata.db.server_clock import ServerClock
from bulk_metadata.db.transaction import (
    CommandConnection,
    OperatorError,
    transaction,
)
from tests.conftest import Organization

DOCUMENTS = {"SN-1": Raw(b'{"a": 1}')}


@pytest.fixture
def clock(cursor: Cursor) -> ServerClock:
    return ServerClock.read(cursor)


@pytest.fixture
def api_key(cursor: Cursor, acme: Organization) -> ApiKey:
    api_key = select_api_key(cursor, digest(acme.key))
    assert api_key is not None
    return api_key


def test_update_before_deadline_is_done(
    api_key: ApiKey, acme: Organization, cursor: Cursor
) -> None:
    acme.insert("SN-1")
    guard = guard_update(api_key, start_within=60, statement_timeout=60)
    found = update_metadata(cursor, acme.id, DOCUMENTS, "100 %s", None, lambda: [guard])
    assert found == acme.ids()
    assert acme.metadata() == {"SN-1": {"a": 1}}
    cursor.execute("SHOW statement_timeout")
    assert cursor.fetchall() == [("0",)]


@pytest.mark.parametrize("update", [update_metadata, dry_run_update])
def test_update_after_deadline_is_rejected(
    update: Callable[..., object],
    api_key: ApiKey,
    acme: Organization,
    cursor: Cursor,
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    guard = guard_update(api_key, start_within=0, statement_timeout=60)
    with pytest.raises(DivisionByZero):
        update(cursor, acme.id, DOCUMENTS, "", None, lambda: [guard])
    assert acme.rows() == before


@pytest.mark.parametrize("invalid", ["revoked_at = now()", "expires_at = now()"])
@pytest.mark.parametrize("update", [update_metadata, dry_run_update])
def test_update_with_invalid_key_is_rejected(
    update: Callable[..., object],
    invalid: str,
    api_key: ApiKey,
    acme: Organization,
    cursor: Cursor,
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    guard = guard_update(api_key, start_within=60, statement_timeout=60)
    cursor.execute(f"UPDATE api_keys SET {invalid}")
    with pytest.raises(ApiError, match="Invalid or missing API key") as raised:
        update(cursor, acme.id, DOCUMENTS, "", None, lambda: [guard])
    assert raised.value.status == 401
    assert acme.rows() == before


def test_guard_of_update_limits_its_duration(api_key: ApiKey, cursor: Cursor) -> None:
    guard = guard_update(api_key, start_within=60, statement_timeout=1)
    with pytest.raises(QueryCanceled, match="statement timeout"):
        execute(cursor, guard, Call(Statement("sleep", "SELECT pg_sleep(60)"), ()))


def test_guard_of_commit_limits_its_duration(
    clock: ServerClock, cursor: Cursor
) -> None:
    guard = clock.guard(start_within=60, statement_timeout=1)
    with pytest.raises(QueryCanceled, match="statement timeout"):
        cursor.execute(guard + "SELECT pg_sleep(60)")


def test_clock_is_never_ahead_of_server(clock: ServerClock, cursor: Cursor) -> None:
    """The offset of two clocks on one machine is exact except for the delay."""
    server_time = clock._offset + time.monotonic()
    cursor.execute("SELECT clock_timestamp() >= to_timestamp(%s)", (server_time,))
    assert cursor.fetchall() == [(True,)]


@pytest.mark.parametrize("stops", [True, False])
def test_ctrl_c_during_commit_stops_next_transaction(
    owner_url: str, stops: bool
) -> None:
    """A process that ignores SIGINT continues."""
    config = Config(owner_url)
    handler = signal.default_int_handler if stops else signal.SIG_IGN
    previous = signal.signal(signal.SIGINT, handler)
    try:
        with transaction(config):
            # The signal arrives while it is blocked, as during a COMMIT.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        with (
            pytest.raises(KeyboardInterrupt) if stops else nullcontext(),
            transaction(config),
        ):
            pass
    finally:
        signal.signal(signal.SIGINT, previous)


def test_late_commit_of_command_is_rolled_back(
    owner_url: str, acme: Organization
) -> None:
    acme.insert("SN-1")

    def delete_late() -> None:
        with transaction(Config(owner_url)) as cursor:
            cursor.execute("DELETE FROM devices")
            assert isinstance(cursor.connection, CommandConnection)
            cursor.connection.clock = ServerClock(server_time=0)

    with pytest.raises(OperatorError, match="The COMMIT reached PostgreSQL too late"):
        delete_late()
    assert acme.metadata() == {"SN-1": {}}
