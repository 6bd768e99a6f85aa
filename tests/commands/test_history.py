"""Enabling, disabling and pruning the history, ``list-requests`` and ``history``."""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from psycopg2.errors import InsufficientPrivilege
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.history.retention import start_partition
from bulk_metadata.db.history.settings import enable_history, select_history
from bulk_metadata.db.transaction import OperatorError
from tests.commands.conftest import Flask, Send
from tests.conftest import Organization, Post

DATE_US = r"20\d\d-\S+ \S+ UTC"
DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
NOT_ENABLED = (
    "Error: The history is not enabled, so previous metadata is not stored. Enable it "
    "for future changes with: flask enable-history\n"
)


@pytest.fixture
def enabled(flask: Flask) -> Iterator[str]:
    """Enable the history with the command. Return its output."""
    yield flask("enable-history").output
    flask("disable-history", "--yes")


@pytest.mark.parametrize(
    "command",
    [
        ["disable-history", "--yes"],
        ["prune-history"],
        ["list-requests", "Acme"],
        ["history", "Acme", "SN-1"],
        ["undo", "Acme", "--request", "one"],
    ],
)
def test_disabled_history_is_reported(command: list[str], flask: Flask) -> None:
    result = flask(*command)
    assert (result.exit_code, result.output) == (1, NOT_ENABLED)


def test_retention_time_changes(flask: Flask, enabled: str) -> None:
    assert enabled.startswith(
        "The history is enabled. It keeps versions for 90 days. Run flask "
        "prune-history every day to delete older versions.\nCost: "
    )
    again = flask("enable-history", "--keep", "12 hours")
    assert re.match(
        rf"The history already starts at {DATE}\. It keeps versions for 12:00:00",
        again.output,
    )
    assert "for 12:00:00." in flask("enable-history").output
    assert "for 3000 years." in flask("enable-history", "--keep", "3000 years").output
    assert flask("prune-history").exit_code == 0
    result = flask("enable-history", "--keep", "12")
    assert result.exit_code == 1
    assert result.output == (
        "Error: --keep must be a positive time span, for example '90 days' or "
        "'12 hours', not '12'.\n"
    )


# tests/citus/ tests the same on a cluster, if Citus is installed.
CITUS = """
BEGIN;
CREATE TEMPORARY VIEW citus_tables AS
SELECT 'devices'::regclass AS table_name, %s::text AS citus_table_type;
CREATE FUNCTION create_distributed_table(text, text, colocate_with text)
RETURNS void LANGUAGE sql AS '';
"""


def test_history_on_citus_has_no_partitions(acme: Organization) -> None:
    acme.cursor.execute(CITUS, ("distributed",))
    assert enable_history(acme.cursor)
    start_partition(acme.cursor)
    assert not select_history(acme.cursor).is_partitioned
    acme.cursor.execute("ROLLBACK")


def test_history_on_citus_requires_distributed_devices(acme: Organization) -> None:
    acme.cursor.execute(CITUS, ("local",))
    with pytest.raises(OperatorError, match="are not distributed"):
        enable_history(acme.cursor)
    acme.cursor.execute("ROLLBACK")


def test_disable_history_asks_for_confirmation(
    flask: Flask, enabled: str, acme: Organization
) -> None:
    acme.insert("A", "B")
    acme.cursor.execute("UPDATE devices SET device_metadata = '{\"a\": 1}'")
    result = flask("disable-history")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"This deletes 2 versions \(\d\.\d MB\)\. "
        r"Requests then take as long as before\.\n"
        r"(.*\n)*Disable the history\? \[y/N\]: (.*\n)*",
        result.output,
    )
    assert flask("history", "Acme", "A").exit_code == 0
    assert flask("disable-history", "--yes").output.endswith("Deleted 2 versions.\n")
    acme.cursor.execute(
        "SELECT FROM pg_class WHERE relname LIKE 'history%'"
        " UNION ALL SELECT FROM pg_proc WHERE proname LIKE 'history%'"
    )
    assert acme.cursor.fetchall() == []


def test_prune_history_drops_expired_partitions(
    flask: Flask, enabled: str, acme: Organization
) -> None:
    acme.insert("A", "B")
    change = "UPDATE devices SET device_metadata = jsonb_build_object('n', {})"
    acme.cursor.execute(change.format(1))
    assert flask("prune-history").output == "Deleted 0 versions.\n"
    acme.cursor.execute(
        "UPDATE history_settings"
        " SET partition_started_at = partition_started_at - interval '10 days'"
    )
    assert flask("prune-history").output == "Deleted 0 versions.\n"
    acme.cursor.execute(change.format(2))
    flask("enable-history", "--keep", "1 microsecond")
    assert flask("prune-history").output == "Deleted 4 versions.\n"
    acme.cursor.execute(change.format(3))
    for query, result in (
        ("SELECT count(*) FROM history_versions", 2),
        ("SELECT sum(devices) FROM history_requests", 2),
        ("SELECT starts_at > now() - interval '1 hour' FROM history_settings", True),
    ):
        acme.cursor.execute(query)
        assert acme.cursor.fetchall() == [(result,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM history_settings",
        "SELECT FROM history_requests",
        "SELECT FROM history_undos",
        "SELECT FROM history_versions",
        "DELETE FROM history_versions",
        "UPDATE history_requests SET request_id = ''",
        "SELECT nextval('history_change')",
    ],
)
def test_service_role_cannot_access_history(
    statement: str, config: Config, history: Cursor
) -> None:
    with (
        closing(connect_service(config)) as connection,
        connection.cursor() as cursor,
        pytest.raises(InsufficientPrivilege),
    ):
        cursor.execute(statement)


def test_trigger_function_ignores_search_path(
    config: Config, history: Cursor, acme: Organization
) -> None:
    """A temporary table cannot replace a table of the history."""
    acme.insert("A")
    history.execute("SELECT proconfig FROM pg_proc WHERE proname = 'history_record'")
    assert history.fetchall() == [(["search_path=public, pg_temp"],)]
    history.execute(
        "CREATE TEMPORARY TABLE history_requests ();"
        "UPDATE devices SET device_metadata = '{\"a\": 1}';"
        "DROP TABLE history_requests"
    )
    history.execute("SELECT devices FROM history_requests ORDER BY change_id DESC")
    assert history.fetchone() == (1,)


def test_times_are_in_utc(
    flask: Flask, history: Cursor, send: Send, acme: Organization
) -> None:
    acme.insert("A")
    send("one", A=1)
    history.execute(
        "SELECT current_database(), changed_at AT TIME ZONE 'UTC' FROM history_requests"
        " WHERE request_id = 'one'"
    )
    [[database, time]] = history.fetchall()
    history.execute(f"ALTER DATABASE {database} SET timezone = 'Asia/Tokyo'")
    try:
        result = flask("list-requests", "Acme", "--since", f"{time}")
    finally:
        history.execute(f"ALTER DATABASE {database} RESET timezone")
    assert f"{time:%Y-%m-%d %H:%M:%S} UTC" in result.output


def test_list_requests_counts_devices(
    flask: Flask, send: Send, acme: Organization, globex: Organization
) -> None:
    acme.insert("A", "B")
    globex.insert("A")
    send("one", A=1, B=1)
    send("% ' \\", B=2)
    send("one", A=3)
    send("other", globex.key, A=1)
    rows = json.loads(flask("list-requests", "Acme", "--json").output)
    assert [
        (row["requestId"], row["keyName"], row["devices"], row["current"])
        for row in rows
    ] == [("one", "tests", 2, 1), ("% ' \\", "tests", 1, 1)]
    assert rows[0]["firstAt"] < rows[1]["firstAt"] < rows[0]["lastAt"]
    lines = flask(
        "list-requests", "Acme", "--limit", "1", "--since", "yesterday"
    ).output
    assert re.fullmatch(
        r"REQUEST ID  API KEY  KEY ID +FIRST +LAST +DEVICES  CURRENT\n"
        rf"one         tests    {rows[0]['keyId']}  .{{19}}  {DATE}  2        1\n",
        lines,
    )


def test_list_requests_without_requests_shows_start(
    flask: Flask, history: Cursor, acme: Organization
) -> None:
    output = flask("list-requests", "Acme").output
    assert re.search(rf"\nNo requests found\. The history starts at {DATE}\.\n", output)


@pytest.mark.parametrize("time", ["soon", "2999-01-01", ""])
def test_invalid_time_is_reported(
    time: str, flask: Flask, history: Cursor, acme: Organization
) -> None:
    result = flask("list-requests", "Acme", "--since", time)
    assert result.exit_code == 1
    assert result.output == (
        "Error: --since must be a time in the past, for example '2026-11-26 14:30' or "
        f"'yesterday', not '{time}'.\n"
    )


def test_history_shows_versions_verbatim(
    flask: Flask, send: Send, post: Post, acme: Organization, history: Cursor
) -> None:
    acme.insert("A", metadata={"v": 0})
    body = '{"devices": {"A": {"n": 1.50, "big": 123456789012345678901234567890.10}}}'
    post(body, **{"X-Request-ID": "one"})
    history.execute("UPDATE devices SET device_metadata = '{\"v\": 3}'")
    # A statement that does not change the metadata.
    history.execute(
        "UPDATE devices SET updated_at = now(), device_metadata = '{\"v\": 3}'"
    )
    verbatim = '{"n": 1.50, "big": 123456789012345678901234567890.10}'
    device = flask("history", "Acme", " A ", "--json").output
    assert verbatim in device
    versions = json.loads(device)["versions"]
    assert [version["requestId"] for version in versions] == [None, "one"]
    assert [version["keyName"] for version in versions] == [None, "tests"]
    output = re.sub(DATE_US, "TIME", flask("history", "Acme", "A").output)
    assert output.startswith('Current metadata: {"v": 3}\n\nTIME by another program\n')
    assert (
        f"Previous metadata: {verbatim}\n\nTIME by request one with API key" in output
    )
    assert output.endswith(
        'Previous metadata: {"v": 0}\n\nThe history starts at TIME.\n'
    )


def test_history_shows_differences(
    flask: Flask, send: Send, acme: Organization
) -> None:
    acme.insert("A", metadata={"removed": 0, "v": 1})
    send("one", A=1)
    send("two", A=2)
    output = flask("history", "Acme", "A").output
    assert '\n  - "v": 1\n  + "v": 2\nPrevious' in output
    assert '\n  - "removed": 0\nPrevious' in output


def test_history_of_unknown_device_is_reported(
    flask: Flask, history: Cursor, acme: Organization, globex: Organization
) -> None:
    globex.insert("A")
    result = flask("history", "Acme", "A")
    assert result.exit_code == 1
    assert result.output == 'Error: The device "A" does not exist.\n'


def test_deeply_nested_metadata_is_printed(
    flask: Flask, acme: Organization, history: Cursor, tmp_path: Path
) -> None:
    deep = '{"a": ' * 1500 + "1" + "}" * 1500
    acme.insert("A", metadata={"v": 0})
    history.execute("UPDATE devices SET device_metadata = %s", (deep,))
    history.execute("UPDATE devices SET device_metadata = '{\"v\": 1}'")
    output = flask("history", "Acme", "A").output
    assert f"\nPrevious metadata: {deep}\n" in output
    history.execute("UPDATE devices SET device_metadata = %s", (deep,))
    path = tmp_path / "fleet.csv"
    path.write_text("identifier,v\nA,1\n")
    result = flask("diff-devices", "Acme", str(path), "--json")
    assert result.exit_code == 2
    assert f'"changed":{{"":{{"old":{deep},"new":{{"v": "1"}}}}}}' in result.output
