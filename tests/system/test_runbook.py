"""The commands in the runbook work unchanged."""

import json
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database, DatabaseError
from bulk_metadata.db.schema import apply_schema
from tests.conftest import Organization, connect
from tests.support.service import PATH, ROOT, Service, run_service
from tests.system.conftest import NUMBER, Run, client_script, snippets

RUNBOOK = (ROOT / "docs" / "operations.md").read_text()

REASONS, SLOWEST, KEYS = snippets(RUNBOOK, "Errors and slow requests")
WAITS, OPEN, CONNECTIONS = snippets(RUNBOOK, "Lock contention", "sql")
[DISK] = snippets(RUNBOOK, "Full disk", "sql")
NEW_KEY, ITS_CALLS = snippets(RUNBOOK, "Leaked API key")
WRONG, RESTORE, SEND_AGAIN = snippets(RUNBOOK, "Restore metadata")

# Identifiers that break careless scripts.
SPECIAL_IDENTIFIERS = [
    '"',
    "\\",
    '\\"',
    "a,b",
    '", "metadata": {}}',
    "{",
    "a\nb",
    "$(x)",
    "é😀",
]


def rows(cursor: Cursor, query: str) -> list[dict[str, Any]]:
    cursor.execute(query)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_blocking_session_and_failed_requests_are_found(
    run: Run,
    service_url: str,
    owner_url: str,
    acme: Organization,
    globex: Organization,
    tmp_path: Path,
) -> None:
    acme.insert("SN-1")
    globex.insert("SN-1")
    key = {"x-api-key": acme.key}
    body = '{"devices": {"SN-1": {}, "SN-2": {}}}'
    with (
        closing(connect(make_dsn(owner_url, application_name="forgotten"))) as holder,
        run_service(
            tmp_path / "log", DATABASE_URL=service_url, LOCK_TIMEOUT="2"
        ) as service,
        ThreadPoolExecutor() as executor,
    ):
        holder.autocommit = False
        holder.cursor().execute(
            "SELECT FROM devices WHERE organization_id = %s FOR UPDATE", (acme.id,)
        )
        for query in ("", "?dryRun=true"):
            service.request(body, {"x-api-key": globex.key}, path=PATH + query)
        service.request(method="GET", path="/readyz")
        waits: list[dict[str, Any]] = []
        while not waits:
            call = executor.submit(service.request, body, key)
            while not waits and not call.done():
                waits = [
                    row
                    for row in rows(acme.cursor, WAITS)
                    if row["blocking_application"] == "forgotten"
                ]
        open_since = rows(
            acme.cursor, OPEN.replace("interval '1 minute'", "interval '0'")
        )
        assert call.result().status == 500
        [end] = re.findall(
            r"`(SELECT pg_terminate_backend)\(<blocking_pid>\)`", RUNBOOK
        )
        acme.cursor.execute(f"{end}({waits[0]['blocking_pid']})")
        assert service.request(body, key).status == 200
        with pytest.raises(psycopg2.Error):
            holder.cursor().execute("SELECT")
    assert waits[0]["application_name"] == "bulk-metadata"
    assert waits[0]["blocking_application"] == "forgotten"
    assert waits[0]["state"] == "idle in transaction"
    assert waits[0]["blocking_pid"] in {row["pid"] for row in open_since}

    shutil.copy(service.log.with_suffix(".requests"), tmp_path / "requests.log")
    failed = len(service.requests) - 4
    [reason] = run(REASONS).stdout.splitlines()
    count, text = reason.split(maxsplit=1)
    assert int(count) == failed
    expected = "55P03: canceling statement due to lock timeout"
    assert text.endswith(expected)
    assert f"| `{expected}` |" in RUNBOOK
    slowest = [json.loads(each) for each in run(SLOWEST).stdout.splitlines()]
    assert slowest[0]["status"] == 500
    times = [each["totalMs"] for each in slowest]
    assert times == sorted(times, reverse=True)
    by_key = [json.loads(each) for each in run(KEYS).stdout.splitlines()]
    assert sorted(
        (
            each["requests"],
            each["failed"],
            each["dryRuns"],
            each["updated"],
            each["notFound"],
        )
        for each in by_key
    ) == [(2, 0, 1, 1, 1), (failed + 1, failed, 0, 1, 1)]


def logged_reason(config: Config, statement: str) -> str:
    with pytest.raises(DatabaseError) as caught:
        Database(config).run(lambda cursor: cursor.execute(statement))
    return str(caught.value)


def test_reasons_match_log(direct_url: str) -> None:
    config = Config(direct_url)
    read_only = make_dsn(direct_url, options="-c default_transaction_read_only=on")
    down = "postgresql://127.0.0.1:1/down"
    sleep = "SET statement_timeout = 1; SELECT pg_sleep(60)"
    update = "UPDATE devices SET device_metadata = '{}' WHERE false"
    ending = "SELECT pg_terminate_backend(pg_backend_pid())"
    listed = re.findall(r"^\| `(.+?)` \|", RUNBOOK, re.MULTILINE)
    for reason in (
        logged_reason(config, sleep),
        logged_reason(replace(config, database_url=read_only), update),
        logged_reason(replace(config, database_url=down), "SELECT"),
        logged_reason(config, ending),
    ):
        forms = [re.escape(form).replace(r"\.\.\.", ".+") for form in listed]
        assert sum(bool(re.match(form, reason)) for form in forms) == 1, reason


def test_connections_and_disk_usage_are_listed(cursor: Cursor) -> None:
    cursor.execute("SET application_name = 'asking'")
    [mine] = [
        row for row in rows(cursor, CONNECTIONS) if row["application_name"] == "asking"
    ]
    cursor.execute("RESET application_name")
    assert (mine["state"], mine["count"]) == ("active", 1)
    cursor.execute("SHOW max_connections")
    assert [(mine["max_connections"],)] == cursor.fetchall()
    cursor.execute(
        "SELECT pg_create_physical_replication_slot('test_bulk_metadata', true)"
    )
    try:
        [disk] = rows(cursor, DISK)
    finally:
        cursor.execute("SELECT pg_drop_replication_slot('test_bulk_metadata')")
    assert "`SELECT pg_drop_replication_slot('<slot_name>')`" in RUNBOOK
    assert "test_bulk_metadata retains " in disk["inactive_slots"]
    assert disk["archiver_failures"] >= 0
    for size in ("database", "devices", "wal"):
        assert re.fullmatch(r"\d+ (bytes|[kMG]B)", disk[size])


def test_leaked_key_is_replaced(
    run: Run, service: Service, owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-1")
    acme.cursor.execute("SELECT id FROM api_keys")
    [[leaked]] = acme.cursor.fetchall()
    body = '{"devices": {"SN-1": {}}}'
    service.request(body, {"x-api-key": acme.key, "X-Request-ID": "leaked"})
    script = re.sub(r"KEY_ID=\S+", f"KEY_ID={leaked}", NEW_KEY)
    done = run(
        script,
        f"cp {service.log.with_suffix('.requests')} requests.log\n",
        ITS_CALLS,
        DATABASE_URL=owner_url,
        FLASK_APP=str(ROOT / "wsgi.py"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Acme  nightly job\n") == 1
    call = json.loads(done.stdout.splitlines()[-1])
    assert (call["requestId"], call["status"], call["updated"]) == ("leaked", 200, 1)
    assert service.request(body, {"x-api-key": acme.key}).status == 401
    file = tmp_path / "nightly.key"
    assert file.stat().st_mode & 0o777 == 0o600
    name, key = file.read_text().strip().split(": ")
    assert name == "x-api-key"
    assert service.request(body, {name: key}).status == 200


@pytest.fixture
def restored_url(owner_url: str, service_url: str) -> Iterator[str]:
    """The URL of a second database with the schema."""
    server = connect(owner_url)
    with server.cursor() as cursor:
        name = "bulk_metadata_test_restored"
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        url = make_dsn(owner_url, dbname=name)
        restored = connect(url)
        apply_schema(restored.cursor())
        restored.close()
        yield url
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.close()


def test_metadata_is_restored_from_backup(
    run: Run,
    service: Service,
    owner_url: str,
    restored_url: str,
    acme: Organization,
    globex: Organization,
) -> None:
    original = {"n": 1, "text": 'é😀 "\\ \t'}
    names = [f"SN-{number:04}" for number in range(1100)]
    acme.insert(*names, *SPECIAL_IDENTIFIERS, metadata=original)
    acme.cursor.execute(
        "UPDATE devices SET device_metadata = device_metadata || %s",
        (f'{{"n": {NUMBER}}}',),
    )
    acme.cursor.execute("UPDATE devices SET updated_at = '2001-01-01'")
    globex.insert("SN-0001", metadata={"other": 1})
    before = acme.texts()
    restored = connect(restored_url)
    with restored.cursor() as copy:
        copy.execute(
            "INSERT INTO organizations (id, name) VALUES (%s, 'Acme')", (acme.id,)
        )
        copy.executemany(
            "INSERT INTO devices (organization_id, identifier, device_metadata)"
            " VALUES (%s, %s, %s)",
            [(acme.id, name, text) for name, text in before.items()],
        )
    restored.close()

    wiped: dict[str, Any] = {
        name: {}
        for name in [*SPECIAL_IDENTIFIERS, *names[: 1000 - len(SPECIAL_IDENTIFIERS)]]
    }
    request_id = "nightly-2026-11-23"
    assert f"REQUEST_ID={request_id}\n" in WRONG
    key = {"x-api-key": acme.key}
    for path in (f"{PATH}?dryRun=true", PATH):
        service.request(
            json.dumps({"devices": wiped}),
            {**key, "X-Request-ID": request_id},
            path=path,
        )
    # Later requests must survive.
    service.request('{"devices": {"SN-1099": {"new": 1}, "SN-0000": {"new": 2}}}', key)
    assert sum(text == "{}" for text in acme.texts().values()) == 999

    done = run(
        f"cp {service.log.with_suffix('.requests')} requests.log\n",
        WRONG,
        RESTORE,
        client_script(SEND_AGAIN, acme.key, service.port),
        PYTHONPATH=str(ROOT),
        DATABASE_URL=owner_url,
        RESTORED_URL=restored_url,
    )
    assert done.returncode == 0, done.stderr
    assert " 999 updated\n" in done.stdout
    assert acme.texts() == {
        **before,
        "SN-1099": '{"new": 1}',
        "SN-0000": '{"new": 2}',
    }
    assert globex.metadata() == {"SN-0001": {"other": 1}}
