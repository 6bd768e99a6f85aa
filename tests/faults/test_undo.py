"""Interrupted and concurrent undos."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bulk_metadata.config import Config
from bulk_metadata.core.json_text import JsonText
from bulk_metadata.db.history.settings import disable_history, enable_history
from bulk_metadata.db.queries import update_metadata
from tests.commands.conftest import Flask, runner
from tests.faults.conftest import run_clients
from tests.support.cluster import Cluster
from tests.support.concurrent_clients import (
    CLIENTS,
    IDENTIFIERS,
    STEP,
    lock,
    lock_device,
)
from tests.support.service import ROOT
from tests.support.waiting import wait_until

UNDO = ["undo", "Acme", "--yes", "--request", "wrong"]
LOCKS = "pg_stat_activity WHERE query LIKE 'SELECT FROM devices % FOR UPDATE'"
LOCKED_TARGETS = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
RESTORED = "devices WHERE request_id LIKE 'undo-%' AND device_metadata = '{}'"


@pytest.fixture
def flask(server: Cluster) -> Flask:
    return runner(Config(database_url=server.url), server.url)


@pytest.fixture
def wrong(server: Cluster) -> Iterator[None]:
    """2,500 devices with the metadata of a wrong request: three steps of an undo."""
    server.prepare(2500)
    [[organization_id]] = server.execute("SELECT id FROM organizations")
    documents = {f"SN-{number}": JsonText(b'{"wrong": 1}') for number in range(2500)}
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        enable_history(cursor)
        update_metadata(cursor, organization_id, documents, "wrong")
    yield
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        disable_history(cursor)


def start_flask(server: Cluster, command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "flask", *command],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": server.url},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture
def waiting_undo(server: Cluster, wrong: None) -> Iterator["subprocess.Popen[str]"]:
    """An undo that waits for a device of its second step."""
    with lock_device(server, "SN-2000"):
        process = start_flask(server, UNDO)
        wait_until(lambda: server.count(RESTORED) == 1000, "the first step")
        yield process
    process.kill()
    process.communicate()


INCOMPLETE = "The undo is incomplete: 1,000 devices restored. Repeat the command.\n"


@pytest.mark.parametrize(
    ("fault", "code", "output"),
    [
        ("fast", 4, f"^Error: .+ {INCOMPLETE}$"),
        ("immediate", 4, f"^Error: .+ {INCOMPLETE}$"),
        (signal.SIGINT, 4, f"^Error: Interrupted. {INCOMPLETE}$"),
        (signal.SIGKILL, -signal.SIGKILL, "^$"),
    ],
    ids=str,
)
def test_interrupted_undo_is_completed(
    fault: str | signal.Signals,
    code: int,
    output: str,
    server: Cluster,
    flask: Flask,
    waiting_undo: "subprocess.Popen[str]",
) -> None:
    """A restart of the server, or a signal to the command."""
    if isinstance(fault, signal.Signals):
        waiting_undo.send_signal(fault)
    else:
        server.restart(fault)
    assert re.search(output, waiting_undo.communicate(timeout=60)[0])
    assert waiting_undo.returncode == code
    assert server.count(RESTORED) == 1000
    server.execute(f"SELECT pg_terminate_backend(pid) FROM {LOCKS}")
    # The session of a killed command keeps its lock until it has the row.
    wait_until(lambda: not server.execute(LOCKED_TARGETS), "the end of the first undo")
    result = flask(*UNDO)
    assert result.exit_code == 0
    assert result.output.startswith("Restored 1,500 devices, skipped 0.\n")
    assert server.count(RESTORED) == 2500
    assert server.execute("SELECT count(DISTINCT request_id) FROM devices") == [(1,)]
    result = flask(*UNDO)
    assert result.output == "All changes of these requests are undone already.\n"


@pytest.fixture
def slow_commit(server: Cluster, wrong: None) -> Iterator[None]:
    """Commits wait for a lock, because of a deferred trigger."""
    server.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT OR UPDATE ON devices"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()",
    )
    yield
    server.execute("DROP FUNCTION wait CASCADE")


@pytest.mark.usefixtures("slow_commit")
@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        (UNDO, 4, f"Error: Interrupted. {INCOMPLETE}"),
        (
            ["import-devices", "Acme", "-", "--format=csv"],
            0,
            'Imported into "Acme": 1 created, 0 skipped because they already exist.\n',
        ),
    ],
    ids=["undo", "import-devices"],
)
def test_ctrl_c_during_commit_does_not_hide_result(
    command: list[str], code: int, output: str, server: Cluster
) -> None:
    with lock(server, "SELECT pg_advisory_xact_lock(1)"):
        process = start_flask(server, command)
        assert process.stdin is not None
        process.stdin.write("identifier\nSN-NEW\n")
        process.stdin.close()
        process.stdin = None
        waiting = "pg_stat_activity WHERE wait_event = 'advisory'"
        wait_until(lambda: server.count(waiting), "the COMMIT", process)
        process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[0] == output
    assert process.returncode == code
    assert server.count(RESTORED) == (1000 if command == UNDO else 0)


SETTINGS = "UPDATE history_settings SET"
# All metadata that each device had.
WRITTEN = """
  SELECT identifier, array_agg(device_metadata)
    FROM (SELECT identifier, device_metadata FROM devices
           UNION ALL
          SELECT identifier, version.device_metadata
            FROM history_versions AS version JOIN devices ON devices.id = device_id)
         AS written
GROUP BY identifier
"""


def test_concurrent_requests_and_undos_lose_no_version(
    server: Cluster, directory: Path, flask: Flask
) -> None:
    # Other tests cause deadlocks on the same server.
    logged = len(server.log.read_text())
    with run_clients(server, directory) as (_, clients):
        with clients.writing():
            assert flask("enable-history").exit_code == 0
            clients.wait_for_more()
            assert flask("disable-history", "--yes").exit_code == 0
            assert flask("enable-history").exit_code == 0
        first = [number + 1 for number in clients.sent]
        with clients.writing():
            for _ in range(5):
                response = clients.post({identifier: {} for identifier in IDENTIFIERS})
                request_id = response.headers["X-Request-ID"]
                result = flask(*UNDO[:-1], request_id, "--force")
                assert result.output.startswith(f"Restored {len(IDENTIFIERS)} devices")
            server.execute(
                "UPDATE history_settings SET partition_started_at = '2020-1-1'"
            )
            assert flask("prune-history").exit_code == 0
        for identifier, written in server.execute(WRITTEN):
            block = IDENTIFIERS.index(identifier) // STEP
            found = {(data.get("client"), data.get("number")) for data in written}
            for client in {max(block - 1, 0), min(block, CLIENTS - 1)}:
                numbers = range(first[client], clients.sent[client] + 1)
                assert {(client, number) for number in numbers} <= found
        assert flask("disable-history", "--yes").exit_code == 0
    assert set(clients.statuses) == {200}
    assert "deadlock detected" not in server.log.read_text()[logged:]
