"""The shell scripts in the docs work unchanged."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from tests.api.test_update import wait_until_locked
from tests.conftest import LOGIN, Organization, connect
from tests.support.service import PATH, ROOT, Service, run_service
from tests.support.waiting import wait_until
from tests.system.conftest import NUMBER, Run, snippets

SCRIPTS = (ROOT / "docs" / "scripts.md").read_text()
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()

[SETTINGS] = snippets(SCRIPTS, "Address and API key")
[SEND] = snippets(SCRIPTS, "Send a file")
[REPLACE] = snippets(SCRIPTS, "Retry transient errors")


@pytest.fixture
def key_file(tmp_path: Path, acme: Organization) -> Path:
    path = tmp_path / "nightly.key"
    path.write_text(f"x-api-key: {acme.key}\n")
    return path


def at(service: Service) -> str:
    """Return the settings of the scripts with the port of the service."""
    assert SETTINGS.count("127.0.0.1:8000") == 1
    return SETTINGS.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}")


@pytest.mark.parametrize("recipe", [SEND, REPLACE + "cat response.json"])
def test_file_is_sent_unchanged(
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
    response = json.loads(done.stdout)
    assert (response["updated"], response["notFound"]) == (1, 1)
    assert acme.texts() == {"SN-1": f'{{"n": {NUMBER}}}'}
    # Including line breaks.
    assert service.requests[-1]["bytes"] == body.stat().st_size


@pytest.mark.parametrize(
    ("key", "body", "status", "message"),
    [
        (False, '{"devices": {"SN-1": {}}}', 401, "Invalid or missing API key"),
        (True, '{"devices": {}}', 400, "devices must contain at least one entry"),
        (True, "{", 400, "Invalid JSON payload"),
    ],
)
def test_rejection_is_printed_and_not_retried(
    key: bool,
    body: str,
    status: int,
    message: str,
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
    assert json.loads(done.stdout) == {"error": message}
    done = run(at(service), REPLACE, "echo not reached")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f'{status}: {{"error":"{message}"}}'
    assert [line["status"] for line in service.requests[before:]] == [status, status]


def test_transient_500_is_retried(
    run: Run,
    direct_url: str,
    acme: Organization,
    key_file: Path,
    tmp_path: Path,
) -> None:
    """The role of the service cannot log in at first."""
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
    assert json.loads((tmp_path / "response.json").read_text())["updated"] == 1
    assert set(statuses[:-1]) == {500}
    assert statuses[-1] == 200
    assert acme.metadata() == {"SN-1": {"a": 1}}


def test_missing_response_is_retried_and_key_stays_secret(
    run: Run,
    service_url: str,
    owner_url: str,
    acme: Organization,
    key_file: Path,
    tmp_path: Path,
) -> None:
    """The worker is killed while a request waits for a lock."""
    acme.insert("SN-1")
    (tmp_path / "body.json").write_text('{"devices": {"SN-1": {"a": 1}}}')
    log = tmp_path / "log"
    with (
        closing(connect(owner_url)) as holder,
        run_service(log, DATABASE_URL=service_url, WORKERS="1") as service,
        ThreadPoolExecutor() as executor,
    ):
        holder.autocommit = False
        holder.cursor().execute("SELECT FROM devices FOR UPDATE")
        call = executor.submit(run, at(service), REPLACE)
        wait_until_locked(acme.cursor)
        commands = [
            " ".join(child.cmdline())
            for child in psutil.Process().children(recursive=True)
            if child.name() == "curl"
        ]
        [worker] = psutil.Process(service.process.pid).children()
        worker.send_signal(signal.SIGKILL)
        wait_until(lambda: "Perhaps out of memory?" in log.read_text())
        holder.rollback()
        done = call.result()
    assert done.returncode == 0
    # curl prints the failure of the first attempt.
    assert done.stderr.startswith("curl: (")
    assert acme.metadata() == {"SN-1": {"a": 1}}
    # The symptom in the runbook.
    assert f"Worker (pid:{worker.pid}) was sent SIGKILL!" in log.read_text()
    assert "`Worker (pid:...) was sent SIGKILL!`" in RUNBOOK
    assert len(commands) == 1
    assert "nightly.key" in commands[0]
    assert acme.key not in commands[0]


def test_first_runbook_commands_work(run: Run, service: Service) -> None:
    [script] = snippets(RUNBOOK, "Symptoms")
    assert script.count("127.0.0.1:9464") == 2
    done = run(script.replace("127.0.0.1:9464", f"127.0.0.1:{service.metrics_port}"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert json.loads(lines[0]) == {"status": "ready"}
    assert "bulk_metadata_pool_size 8.0" in lines
    assert not [each for each in lines if "_bucket" in each or each.startswith("#")]


def test_scripts_use_documented_address() -> None:
    assert f"URL=http://127.0.0.1:8000{PATH}\n" in SETTINGS
