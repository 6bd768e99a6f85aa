"""The service behind PgBouncer, which drops start-up options."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from contextlib import closing
from pathlib import Path

import pytest
from psycopg2.extensions import cursor as Cursor

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from tests.conftest import Organization, connect
from tests.db.test_schema import INDEX_SCAN, SENT, plan
from tests.support.proxies import PGBOUNCER
from tests.support.service import PATH, ROOT, run_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="PgBouncer. To test it: apt-get install pgbouncer"
)


@pytest.fixture
def pooled(pooled_url: str) -> Config:
    """Timeouts that differ from those of the role."""
    return Config(database_url=pooled_url, lock_timeout=1, statement_timeout=2)


def show(cursor: Cursor, name: str) -> str:
    cursor.execute(f"SHOW {name}")
    [[value]] = cursor.fetchall()
    return str(value)


def test_role_settings_replace_start_up_options(pooled: Config) -> None:
    connection = connect_service(pooled)
    with connection.cursor() as cursor:
        assert show(cursor, "lock_timeout") == "4s"
        assert show(cursor, "statement_timeout") == "6s"
        assert show(cursor, "application_name") == "bulk-metadata"
        assert show(cursor, "client_encoding") == "UTF8"
    connection.close()


def test_plan_is_index_nested_loop_behind_pgbouncer(
    pooled: Config, acme: Organization
) -> None:
    identifiers = [f"SN-{number:06}" for number in range(100_000)]
    acme.insert(*identifiers, metadata={"a": 1})
    acme.cursor.execute("ANALYZE devices")
    with closing(connect_service(pooled)) as connection:
        found = plan(connection, acme, identifiers[:1000])
    assert found == ["ModifyTable", "Nested Loop", *SENT, INDEX_SCAN]


def test_locked_device_causes_500_behind_pgbouncer(
    pooled: Config, acme: Organization, owner_url: str, log: io.StringIO
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    client = create_app(pooled).test_client()
    headers = {"x-api-key": acme.key}
    body = b'{"devices": {"SN-1": {"a": 1}}}'
    locker = connect(owner_url)
    locker.autocommit = False
    with locker.cursor() as cursor:
        cursor.execute("SELECT FROM devices FOR UPDATE")
        assert client.post(PATH, data=body, headers=headers).status_code == 500
    locker.close()
    # The role sets the lock timeout; the service sends the statement timeout.
    assert "57014: canceling statement due to statement timeout" in log.getvalue()
    assert acme.rows() == before
    assert client.post(PATH, data=body, headers=headers).status_code == 200


# Waits until another session releases the lock.
WAIT = """
SET LOCAL lock_timeout = 0;
SET LOCAL statement_timeout = 0;
SELECT pg_advisory_xact_lock(1)
"""


def test_exhausted_pgbouncer_causes_500_and_recovers(
    pooled_url: str, acme: Organization
) -> None:
    acme.insert("SN-1")
    client = create_app(Config(database_url=pooled_url)).test_client()

    def send() -> int:
        body = b'{"devices": {"SN-1": {"a": 1}}}'
        return client.post(PATH, data=body, headers={"x-api-key": acme.key}).status_code

    def wait(number: int) -> None:
        with closing(connect(pooled_url)) as connection:
            connection.cursor().execute(WAIT)

    acme.cursor.execute("SELECT pg_advisory_lock(1)")
    with ThreadPoolExecutor(20) as executor:
        waits = executor.map(wait, range(20))
        try:
            wait_until(lambda: waiting(acme.cursor) == 20)
            assert send() == 500
        finally:
            acme.cursor.execute("SELECT pg_advisory_unlock(1)")
        list(waits)
    assert send() == 200


def waiting(cursor: Cursor) -> int:
    """Return the number of sessions that wait for the lock."""
    cursor.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    )
    [[count]] = cursor.fetchall()
    return int(count)


def test_pgbouncer_times_out_before_service() -> None:
    shipped = ConfigParser()
    shipped.read(ROOT / "deploy" / "pgbouncer.ini")
    timeout = shipped.getint("pgbouncer", "query_wait_timeout")
    assert timeout < Config(database_url="").answer_timeout


@pytest.mark.slow(reason="80 requests for 1,000 devices each")
def test_overlapping_requests_succeed_behind_pgbouncer(
    pooled_url: str, acme: Organization, tmp_path: Path
) -> None:
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers)

    def send(number: int) -> int:
        order = identifiers if number % 2 else identifiers[::-1]
        body = json.dumps({"devices": {each: {"n": number} for each in order}})
        return service.request(body, {"x-api-key": acme.key}).status

    with (
        run_service(tmp_path / "log", DATABASE_URL=pooled_url) as service,
        ThreadPoolExecutor(8) as executor,
    ):
        assert set(executor.map(send, range(80))) == {200}
    # All devices have the value of one request.
    assert len({json.dumps(each) for each in acme.metadata().values()}) == 1
