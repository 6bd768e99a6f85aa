"""``flask undo``."""

import json
import re
import shlex
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.history.target import Target
from bulk_metadata.db.history.undo import RESTORE, Undo
from bulk_metadata.db.transaction import transaction
from tests.commands.conftest import Flask, Send
from tests.conftest import Organization, connect
from tests.support.service import ROOT

UNDO = r"undo-[0-9a-f]{16}"


@pytest.fixture(autouse=True)
def devices(history: Cursor, acme: Organization, globex: Organization) -> None:
    acme.insert("A", "B", "C", metadata={"v": 0})
    globex.insert("A", metadata={"v": 0})


def values(organization: Organization) -> str:
    return "".join(
        str(data["v"]) for _, data in sorted(organization.metadata().items())
    )


def key_ids(organization: Organization) -> list[str]:
    organization.cursor.execute(
        "SELECT id::text FROM api_keys WHERE organization_id = %s ORDER BY created_at",
        (organization.id,),
    )
    return [key_id for [key_id] in organization.cursor.fetchall()]


def undo(flask: Flask, *options: str) -> tuple[int, int, dict[str, Any]]:
    """Return the exit code, the restored devices and the skipped devices."""
    result = flask("undo", "Acme", "--yes", "--json", *options)
    output = json.loads(result.output)
    assert re.fullmatch(UNDO, output["undoRequestId"])
    skipped = {row["identifier"]: row["requestId"] for row in output["skipped"]}
    return result.exit_code, output["restored"], skipped


def test_undo_restores_metadata_before_request(
    flask: Flask, send: Send, acme: Organization, globex: Organization
) -> None:
    send("one", A=1, B=1)
    send("one", B=2, C=2)
    send("one", globex.key, A=1)
    result = flask("undo", "Acme", "--request", "one", "--yes")
    assert result.exit_code == 0
    assert re.fullmatch(
        f"Restored 3 devices, skipped 0.\nTo undo this, use the request ID {UNDO}\n",
        result.output,
    )
    assert (values(acme), values(globex)) == ("000", "1")
    [undo_id] = re.findall(UNDO, result.output)
    acme.cursor.execute(
        "SELECT DISTINCT request_id, key_id FROM devices ORDER BY 1 DESC"
    )
    assert acme.cursor.fetchall()[0] == (undo_id, None)


def test_later_change_is_skipped_without_force(
    flask: Flask, send: Send, acme: Organization, history: Cursor
) -> None:
    send("one", A=1, B=1, C=1)
    send("two", B=2)
    history.execute(
        "UPDATE devices SET device_metadata = '{\"v\": 3}'"
        " WHERE organization_id = %s AND identifier = 'C'",
        (acme.id,),
    )
    assert undo(flask, "--request", "one") == (3, 1, {"B": "two", "C": None})
    assert values(acme) == "023"
    assert undo(flask, "--request", "one") == (1, 0, {"B": "two", "C": None})
    # There is nothing to confirm.
    result = flask("undo", "Acme", "--request", "one")
    assert result.output == (
        "Skipped B: request two changed it later\n"
        "Skipped C: another program changed it later\n"
        "Restored 0 devices, skipped 2.\n"
        "To also restore devices that were changed later, use --force.\n"
    )
    assert undo(flask, "--request", "one", "--force") == (0, 2, {})
    assert values(acme) == "000"


def test_last_uninterrupted_run_is_undone(
    flask: Flask, send: Send, acme: Organization
) -> None:
    send("one", A=1)
    send("two", A=2)
    send("one", A=3)
    assert undo(flask, "--request", "one") == (0, 1, {})
    assert values(acme) == "200"
    assert undo(flask, "--request", "two") == (0, 1, {})
    assert values(acme) == "100"


def test_undo_can_be_undone(flask: Flask, send: Send, acme: Organization) -> None:
    send("one", A=1, B=1)
    output = flask("undo", "Acme", "--request", "one", "--yes").output
    [undo_id] = re.findall(UNDO, output)
    assert undo(flask, "--request", undo_id) == (0, 2, {})
    assert values(acme) == "110"
    assert undo(flask, "--request", "one") == (0, 2, {})
    result = flask("undo", "Acme", "--request", "one", "--yes")
    assert (result.exit_code, result.output) == (
        1,
        "All changes of these requests are undone already.\n",
    )


def test_changes_of_api_key_are_undone(
    flask: Flask, send: Send, acme: Organization
) -> None:
    leaked = acme.create_key()
    acme.cursor.execute(
        "SELECT id::text FROM api_keys ORDER BY created_at DESC LIMIT 1"
    )
    [[key_id]] = acme.cursor.fetchall()
    send("one", A=1)
    send("bad 1", leaked, A=2, B=2, C=2)
    send("two", C=1)
    send("bad 2", leaked, A=3)
    assert undo(flask, "--key", key_id, "--since", "today") == (3, 2, {"C": "two"})
    assert values(acme) == "101"


def test_request_id_of_two_api_keys_requires_key(
    flask: Flask, send: Send, acme: Organization
) -> None:
    other = acme.create_key()
    send("one", A=1)
    send("one", other, B=1)
    acme.cursor.execute(
        "SELECT id::text FROM api_keys WHERE organization_id = %s ORDER BY created_at",
        (acme.id,),
    )
    keys = [key for [key] in acme.cursor.fetchall()]
    result = flask("undo", "Acme", "--request", "one", "--yes")
    assert result.exit_code == 1
    assert result.output == (
        'Error: The request ID "one" was used with several API keys: '
        f"{', '.join(sorted(keys))}. Choose one with --key.\n"
    )
    assert undo(flask, "--request", "one", "--key", keys[1]) == (0, 1, {})
    assert values(acme) == "100"


def test_dry_run_restores_nothing(flask: Flask, send: Send, acme: Organization) -> None:
    send("one", A=1, B=1)
    send("two", B=2)
    before = acme.rows()
    assert undo(flask, "--request", "one", "--dry-run") == (3, 1, {"B": "two"})
    result = flask("undo", "Acme", "--request", "one", "--dry-run")
    assert result.exit_code == 3
    assert result.output == (
        "Skipped B: request two changed it later\n"
        "Would restore 1 device, skip 1.\n"
        "To also restore devices that were changed later, use --force.\n"
    )
    assert acme.rows() == before


@pytest.mark.parametrize(("answer", "expected"), [("y\n", "000"), ("n\n", "110")])
def test_undo_asks_for_confirmation(
    answer: str, expected: str, flask: Flask, send: Send, acme: Organization
) -> None:
    send("one", A=1, B=1)
    result = flask("undo", "Acme", "--request", "one", input=answer)
    assert "Would restore 2 devices, skip 0.\n" in result.output
    assert "If an upload with this request ID still runs or is resumed" in result.output
    assert values(acme) == expected


def test_long_list_of_skipped_devices_is_cut(
    flask: Flask, send: Send, acme: Organization
) -> None:
    numbers = {f"SN-{number:02}": 1 for number in range(25)}
    acme.insert(*numbers)
    send("one", A=1, **numbers)
    send("two", **numbers)
    result = flask("undo", "Acme", "--request", "one", input="n\n")
    assert "Skipped SN-19: " in result.output
    assert "SN-20" not in result.output
    assert "... and 5 more\n" in result.output


def test_deleted_device_is_skipped(
    flask: Flask, send: Send, acme: Organization
) -> None:
    """Another device that has the identifier is not restored."""
    send("one", A=1, B=1)
    deleted = acme.ids()["A"]
    acme.cursor.execute("DELETE FROM devices WHERE id = %s", (deleted,))
    acme.insert("A", metadata={"v": 5})
    assert undo(flask, "--request", "one") == (3, 1, {f"ID {deleted}": None})
    output = flask("undo", "Acme", "--request", "one", "--dry-run").output
    assert "the device is no longer in the organization\n" in output
    assert values(acme) == "500"


def test_change_in_another_organization_is_skipped(
    flask: Flask, send: Send, acme: Organization, globex: Organization
) -> None:
    send("one", A=1, B=1, C=1)

    def move(identifier: str, source: Organization, target: Organization) -> None:
        acme.cursor.execute(
            "UPDATE devices SET organization_id = %s"
            " WHERE organization_id = %s AND identifier = %s",
            (target.id, source.id, identifier),
        )

    for identifier in "BC":
        move(identifier, acme, globex)
    send("two", globex.key, B=2)
    for identifier in "BC":
        move(identifier, globex, acme)
    assert undo(flask, "--request", "one") == (3, 2, {"B": None})
    assert values(acme) == "020"
    assert undo(flask, "--request", "one", "--force") == (0, 1, {})
    assert values(acme) == "000"


def test_concurrent_undo_is_rejected(
    flask: Flask, send: Send, acme: Organization, config: Config, owner_url: str
) -> None:
    send("one", A=1)
    owner = replace(config, database_url=owner_url)
    with transaction(owner, index_plans=True) as cursor:
        undo = Undo(cursor, Target(acme.id, "one", None, None), force=False)
        result = flask("undo", "Acme", "--request", "one", "--yes")
        assert result.output == "Error: Another undo of these requests is running.\n"
        assert undo.step(1).restored == 1


def test_undo_reads_no_table_sequentially(
    acme: Organization, config: Config, owner_url: str
) -> None:
    update = RESTORE[RESTORE.index("UPDATE devices") :]
    values: dict[str, Any] = {"organization_id": acme.id, "undo_id": "undo-1"}
    values |= {"device_ids": [], "change_ids": []}
    owner = replace(config, database_url=owner_url)
    with transaction(owner, index_plans=True) as cursor:
        cursor.execute(f"EXPLAIN {update}", values)
        plan = "".join(line for [line] in cursor.fetchall())
    assert "Index Scan using history_versions" in plan
    assert "Seq Scan" not in plan


def test_locked_device_stops_undo(
    flask: Flask,
    send: Send,
    acme: Organization,
    owner_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bulk_metadata.db.history.undo.LOCK_ATTEMPTS", 2)
    monkeypatch.setattr("bulk_metadata.db.history.undo.LOCK_SECONDS", 0)
    send("one", A=1)
    with closing(connect(owner_url)) as other:
        other.cursor().execute(
            "BEGIN; SELECT FROM devices WHERE organization_id = %s FOR UPDATE",
            (acme.id,),
        )
        result = flask("undo", "Acme", "--request", "one", "--yes")
    assert result.exit_code == 1
    assert result.output == (
        "Error: Another session holds locks on devices. Repeat the command when the "
        "locks are released.\n"
    )


def test_documented_commands_work(flask: Flask, send: Send, acme: Organization) -> None:
    """The commands in docs/undo.md, in their order."""
    acme.insert("SN-A100", metadata={"v": 0})
    send("nightly-2026-11-23", **{"SN-A100": 1})
    page = (ROOT / "docs" / "undo.md").read_text()
    key = f"--key {key_ids(acme)[0]} --since 2001-01-01"
    page = re.sub(r"--key \S+ --since .+", key, page)
    commands = re.findall(r"^flask (.+)$", page, re.MULTILINE)
    results = [flask(*shlex.split(command), input="y\n") for command in commands]
    assert [result.exit_code for result in results] == [0, 0, 0, 0, 1]
    assert "nightly-2026-11-23" in results[1].output
    assert "Restored 1 device, skipped 0." in results[3].output
    assert results[4].output == "All changes of these requests are undone already.\n"


KEY_ID = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--request", "unknown"],
            "The history contains no such requests. Versions from before 20.+ were not "
            "stored, or are deleted.",
        ),
        (
            ["--request", "one", "--key", KEY_ID],
            f"The organization has no API key with ID {KEY_ID}. List its API keys "
            "with: flask list-keys ORGANIZATION",
        ),
        (["--key", KEY_ID, "--since", "tomorrow"], ".+"),
        ([], "Use either --request, or --key and --since."),
        (["--since", "today"], "Use either --request, or --key and --since."),
        (["--key", KEY_ID], "Use either --request, or --key and --since."),
        (
            ["--request", "one", "--since", "today", "--key", KEY_ID],
            "Use either --request, or --key and --since.",
        ),
    ],
)
def test_invalid_option_is_reported(
    options: list[str], message: str, flask: Flask, send: Send, acme: Organization
) -> None:
    send("one", A=1)
    result = flask("undo", "Acme", "--yes", *options)
    assert result.exit_code in (1, 2)
    assert re.search(rf"^Error: {message}\n\Z", result.output, re.MULTILINE)
    assert values(acme) == "100"
