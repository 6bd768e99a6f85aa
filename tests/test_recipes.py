"""What the documents tell an operator to type does what they say, as it stands."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from bulk_metadata.commands.schema import apply_schema
from bulk_metadata.config import Config
from bulk_metadata.database import Database, DatabaseError
from tests.conftest import LOGIN, Organization, connect
from tests.faults.cluster import BINARIES
from tests.service import PATH, ROOT, Service, run_service

README = (ROOT / "README.md").read_text()
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()

# The embedded server's psql is good enough where there is no other.
PROGRAMS = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"], str(BINARIES)]
)

# More digits than a double has.
NUMBER = "12345678901234567890.123456789012345678901234567890"


def snippets(document: str, heading: str, language: str = "sh") -> list[str]:
    """Return what stands in the section to be typed."""
    section = document.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.+?)```", section, re.DOTALL)


SETTINGS, SEND, REPLACE = snippets(README, "From a script")
[MANY] = snippets(RUNBOOK, "Replace the metadata of many devices")
REASONS, SLOWEST, KEYS = snippets(RUNBOOK, "What fails, and why")
WAITS, OPEN, CONNECTIONS = snippets(RUNBOOK, "Who waits for whom", "sql")
[DISK] = snippets(RUNBOOK, "The disk is full", "sql")
NEW_KEY, ITS_CALLS = snippets(RUNBOOK, "A key has leaked")
WRONG, RESTORE = snippets(RUNBOOK, "A wrong call replaced metadata")
# Without the call that shows how to use it.
FUNCTION = REPLACE.removesuffix("replace_metadata body.json answer.json\n")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script in a folder of its own."""
    for program in ("curl", "jq", "psql"):
        if not shutil.which(program, path=PROGRAMS):
            pytest.skip(f"{program} is not installed")

    def run(*script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(script)],
            cwd=tmp_path,
            env={**os.environ, "PATH": PROGRAMS, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


@pytest.fixture
def key_file(tmp_path: Path, acme: Organization) -> Path:
    path = tmp_path / "nightly.key"
    path.write_text(f"x-api-key: {acme.key}\n")
    return path


def at(service: Service) -> str:
    """Return the settings that the scripts begin with, for this service."""
    assert SETTINGS.count("127.0.0.1:8000") == 1
    return SETTINGS.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError(condition)


@pytest.mark.parametrize("recipe", [SEND, REPLACE + "cat answer.json"])
def test_a_file_is_sent_as_it_is(
    recipe: str,
    run: Run,
    service: Service,
    acme: Organization,
    key_file: Path,
    tmp_path: Path,
) -> None:
    acme.insert("SN-1")
    body = tmp_path / "body.json"
    body.write_text(f'{{"devices": {{\n"SN-1": {{"n": {NUMBER}}},\r\n"SN-2": {{}}}}}}')
    done = run(at(service), recipe)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["updated"], answer["notFound"]) == (1, 1)
    assert acme.texts() == {"SN-1": f'{{"n": {NUMBER}}}'}
    # Line breaks included.
    assert service.requests[-1]["bytes"] == body.stat().st_size


@pytest.mark.parametrize(
    ("key", "body", "status", "sentence"),
    [
        (False, '{"devices": {"SN-1": {}}}', 401, "Invalid or missing API key"),
        (True, '{"devices": {}}', 400, "devices must contain at least one entry"),
        (True, "{", 400, "Invalid JSON payload"),
    ],
)
def test_a_refusal_is_shown_and_not_repeated(
    key: bool,
    body: str,
    status: int,
    sentence: str,
    run: Run,
    service: Service,
    key_file: Path,
    tmp_path: Path,
) -> None:
    if not key:
        key_file.write_text("x-api-key: tlm_mistyped\n")
    (tmp_path / "body.json").write_text(body)
    before = len(service.requests)
    done = run(at(service), SEND)
    assert done.returncode == 22
    assert json.loads(done.stdout) == {"error": sentence}
    done = run(at(service), REPLACE, "echo not reached")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f'{status}: {{"error":"{sentence}"}}'
    assert [line["status"] for line in service.requests[before:]] == [status, status]


def test_a_500_that_passes_is_repeated(
    run: Run,
    direct_url: str,
    acme: Organization,
    key_file: Path,
    tmp_path: Path,
) -> None:
    """The service comes before its role may log in."""
    acme.insert("SN-1")
    (tmp_path / "body.json").write_text('{"devices": {"SN-1": {"a": 1}}}')
    acme.cursor.execute(f"ALTER ROLE {LOGIN['user']} NOLOGIN")
    try:
        with (
            run_service(tmp_path / "log", DATABASE_URL=direct_url) as service,
            ThreadPoolExecutor() as executor,
        ):
            call = executor.submit(run, at(service), REPLACE)
            wait_until(lambda: len(service.requests) > 0)
            acme.cursor.execute(f"ALTER ROLE {LOGIN['user']} LOGIN")
            done = call.result()
            statuses = [line["status"] for line in service.requests]
    finally:
        acme.cursor.execute(f"ALTER ROLE {LOGIN['user']} LOGIN")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "answer.json").read_text())["updated"] == 1
    assert set(statuses[:-1]) == {500}
    assert statuses[-1] == 200
    assert acme.metadata() == {"SN-1": {"a": 1}}


def test_no_answer_is_repeated_and_the_key_stays_secret(
    run: Run,
    service_url: str,
    owner_url: str,
    acme: Organization,
    key_file: Path,
    tmp_path: Path,
) -> None:
    """The worker is killed while a call waits for a device that somebody holds."""
    acme.insert("SN-1")
    (tmp_path / "body.json").write_text('{"devices": {"SN-1": {"a": 1}}}')
    log = tmp_path / "log"
    with (
        run_service(log, DATABASE_URL=service_url, WORKERS="1") as service,
        ThreadPoolExecutor() as executor,
    ):
        holder = connect(owner_url)
        holder.autocommit = False
        holder.cursor().execute("SELECT FROM devices FOR UPDATE")
        call = executor.submit(run, at(service), REPLACE)
        wait_until(lambda: bool(rows(acme.cursor, WAITS)))
        commands = [
            " ".join(child.cmdline())
            for child in psutil.Process().children(recursive=True)
            if child.name() == "curl"
        ]
        [worker] = psutil.Process(service.process.pid).children()
        worker.send_signal(signal.SIGKILL)
        wait_until(lambda: "Perhaps out of memory?" in log.read_text())
        holder.rollback()
        holder.close()
        done = call.result()
    assert done.returncode == 0
    # What happened on the way is told: "Empty reply from server" or the like.
    assert done.stderr.startswith("curl: (")
    assert acme.metadata() == {"SN-1": {"a": 1}}
    # The words by which the runbook's table knows it.
    assert f"Worker (pid:{worker.pid}) was sent SIGKILL!" in log.read_text()
    assert "`Worker (pid:...) was sent SIGKILL!`" in README
    assert len(commands) == 1
    assert "nightly.key" in commands[0]
    assert acme.key not in commands[0]


def line(identifier: str, metadata: str) -> str:
    return f'{{"identifier": {json.dumps(identifier)}, "metadata": {metadata}}}\n'


# What scripts trip over: quotes, backslashes, commas, brackets, line breaks.
STRANGE = ['"', "\\", '\\"', "a,b", '", "metadata": {}}', "{", "a\nb", "$(x)", "é😀"]


def test_many_devices_are_replaced_to_the_digit(
    run: Run, service: Service, acme: Organization, key_file: Path, tmp_path: Path
) -> None:
    identifiers = [*STRANGE, *(f"SN-{number:04}" for number in range(2500))]
    identifiers = identifiers[:2500]
    unknown = {"SN-0000", "SN-1500", "SN-2490"}
    acme.insert(*(name for name in identifiers if name not in unknown))
    metadata = f'{{"n": {NUMBER}, "s": "é😀 \\"}}, {{\\" \\\\"}}'
    lines = [line(name, metadata) for name in identifiers]
    # As jq and PostgreSQL write it, and as others may.
    lines[20] = '{"identifier":"SN-0011","metadata":{}}\n'
    lines[21] = '{ "identifier" : "SN-0012" , "metadata" : {"a": {"b": 2}} }\r\n'
    lines[22] = '{"identifier": "\\u0053N-0013", "metadata": {"c": []}}\n'
    (tmp_path / "devices.ndjson").write_text("".join(lines).rstrip("\n"), newline="")
    done = run(at(service), FUNCTION, MANY)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    found = (tmp_path / "not-found.txt").read_text().splitlines()
    assert {json.loads(each) for each in found} == unknown
    assert len(found) == 3
    texts = acme.texts()
    assert len(texts) == 2497
    assert [texts.pop(f"SN-001{number}") for number in (1, 2, 3)] == [
        "{}",
        '{"a": {"b": 2}}',
        '{"c": []}',
    ]
    assert set(texts.values()) == {metadata}
    assert [each["devices"] for each in service.requests[-3:]] == [1000, 1000, 500]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            line("SN-1400", "null"),
            r'400: \{"error":"Invalid metadata for device \\"SN-1400\\": '
            r'must be a JSON object"\}\n',
        ),
        ('{"identifier": "SN-1400"}\n', r"jq: .+\n"),
        # Were it sent as it looks, a device called "more" would be replaced.
        (
            '{"identifier": "SN-1400", "metadata": {}, "more": {}}\n',
            r"jq: .+: a line of another form\n",
        ),
    ],
)
def test_many_devices_stop_at_the_first_failure(
    wrong: str,
    reason: str,
    run: Run,
    service: Service,
    acme: Organization,
    key_file: Path,
    tmp_path: Path,
) -> None:
    identifiers = [f"SN-{number:04}" for number in range(2500)]
    acme.insert(*identifiers, "more")
    lines = [line(name, '{"a": 1}') for name in identifiers]
    lines[1400] = wrong
    (tmp_path / "devices.ndjson").write_text("".join(lines))
    done = run(at(service), FUNCTION, MANY)
    assert done.returncode == 1
    stopped = "Stopped: of devices.ndjson only the lines before 1001 are done\n"
    assert re.fullmatch(reason + stopped, done.stderr)
    assert acme.updated() == set(identifiers[:1000])


def rows(cursor: Cursor, query: str) -> list[dict[str, Any]]:
    cursor.execute(query)
    names = [column.name for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def test_who_waits_for_whom_and_what_the_log_says_of_it(
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
    holder = connect(make_dsn(owner_url, application_name="forgotten"))
    holder.autocommit = False
    holder.cursor().execute(
        "SELECT FROM devices WHERE organization_id = %s FOR UPDATE", (acme.id,)
    )
    with (
        run_service(
            tmp_path / "log", DATABASE_URL=service_url, LOCK_TIMEOUT="2"
        ) as service,
        ThreadPoolExecutor() as executor,
    ):
        service.request(body, {"x-api-key": globex.key})
        service.request(method="GET", path="/readyz")
        waits: list[dict[str, Any]] = []
        while not waits:
            call = executor.submit(service.request, body, key)
            while not waits and not call.done():
                waits = [
                    row
                    for row in rows(acme.cursor, WAITS)
                    if row["holder_is"] == "forgotten"
                ]
        open_since = rows(
            acme.cursor, OPEN.replace("interval '1 minute'", "interval '0'")
        )
        assert call.result().status == 500
        [end] = re.findall(r"`(SELECT pg_terminate_backend)\(<its pid>\)`", RUNBOOK)
        acme.cursor.execute(f"{end}({waits[0]['waits_for']})")
        assert service.request(body, key).status == 200
    with pytest.raises(psycopg2.Error):
        holder.cursor().execute("SELECT")
    holder.close()
    assert waits[0]["application_name"] == "bulk-metadata"
    assert waits[0]["holder_is"] == "forgotten"
    assert waits[0]["state"] == "idle in transaction"
    assert waits[0]["waits_for"] in {row["pid"] for row in open_since}

    shutil.copy(service.log.with_suffix(".requests"), tmp_path / "requests.log")
    failed = len(service.requests) - 3
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
        (each["calls"], each["failed"], each["updated"], each["notFound"])
        for each in by_key
    ) == [(1, 0, 1, 1), (failed + 1, failed, 1, 1)]


def log_reason(config: Config, statement: str) -> str:
    with pytest.raises(DatabaseError) as caught:
        Database(config).run(lambda cursor: cursor.execute(statement))
    return str(caught.value)


def test_the_reasons_are_those_of_the_log(direct_url: str) -> None:
    config = Config(direct_url)
    read_only = make_dsn(direct_url, options="-c default_transaction_read_only=on")
    down = "postgresql://127.0.0.1:1/down"
    sleep = "SET statement_timeout = 1; SELECT pg_sleep(60)"
    update = "UPDATE devices SET device_metadata = '{}' WHERE false"
    ending = "SELECT pg_terminate_backend(pg_backend_pid())"
    listed = re.findall(r"^\| `(.+?)` \|", RUNBOOK, re.MULTILINE)
    for reason in (
        log_reason(config, sleep),
        log_reason(replace(config, database_url=read_only), update),
        log_reason(replace(config, database_url=down), "SELECT"),
        log_reason(config, ending),
    ):
        forms = [re.escape(form).replace(r"\.\.\.", ".+") for form in listed]
        assert sum(bool(re.match(form, reason)) for form in forms) == 1, reason


def test_what_holds_connections_and_disk_can_be_asked(cursor: Cursor) -> None:
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
    assert "`SELECT pg_drop_replication_slot('<its name>')`" in RUNBOOK
    assert "test_bulk_metadata keeps " in disk["slots_that_nobody_reads"]
    assert disk["archiver_failures"] >= 0
    for size in ("database", "devices", "wal"):
        assert re.fullmatch(r"\d+ (bytes|[kMG]B)", disk[size])


def test_a_leaked_key_is_replaced(
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
    """The URL of another database, with the same tables."""
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


def test_a_wrong_call_is_undone_from_a_restored_database(
    run: Run,
    service: Service,
    owner_url: str,
    restored_url: str,
    acme: Organization,
    globex: Organization,
    key_file: Path,
) -> None:
    original = {"n": 1, "text": 'é😀 "\\ \t'}
    names = [f"SN-{number:04}" for number in range(1100)]
    acme.insert(*names, *STRANGE, metadata=original)
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
        name: {} for name in [*STRANGE, *names[: 1000 - len(STRANGE)]]
    }
    request_id = "nightly-2026-11-23"
    assert f"REQUEST_ID={request_id}\n" in WRONG
    key = {"x-api-key": acme.key}
    service.request(json.dumps({"devices": wiped}), {**key, "X-Request-ID": request_id})
    # The right calls after it stay.
    service.request('{"devices": {"SN-1099": {"new": 1}, "SN-0000": {"new": 2}}}', key)
    assert sum(text == "{}" for text in acme.texts().values()) == 999

    done = run(
        at(service),
        FUNCTION,
        f"cp {service.log.with_suffix('.requests')} requests.log\n",
        WRONG,
        RESTORE,
        MANY,
        "cat not-found.txt",
        DATABASE_URL=owner_url,
        RESTORED_URL=restored_url,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
    assert acme.texts() == {
        **before,
        "SN-1099": '{"new": 1}',
        "SN-0000": '{"new": 2}',
    }
    assert globex.metadata() == {"SN-0001": {"other": 1}}


def test_what_to_ask_first(run: Run, service: Service) -> None:
    [script] = snippets(README, "When something is wrong")
    assert script.count("127.0.0.1:9464") == 2
    done = run(script.replace("127.0.0.1:9464", f"127.0.0.1:{service.operations_port}"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert json.loads(lines[0]) == {"status": "ready"}
    assert "bulk_metadata_pool_size 8.0" in lines
    assert not [each for each in lines if "_bucket" in each or each.startswith("#")]


def test_the_scripts_call_the_documented_address() -> None:
    assert f"URL=http://127.0.0.1:8000{PATH}\n" in SETTINGS
