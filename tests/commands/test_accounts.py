"""``flask create-organization``, ``create-key``, ``list-keys`` and ``revoke-key``."""

import re

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from tests.commands.conftest import Flask
from tests.conftest import Organization
from tests.support.service import PATH

DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d \S+"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def status(client: FlaskClient, key: str) -> int:
    body = '{"devices": {"SN-1": {}}}'
    return client.post(PATH, data=body, headers={"x-api-key": key}).status_code


def test_create_organization_prints_id(flask: Flask, cursor: Cursor) -> None:
    result = flask("create-organization", " Acme Fleet ")
    cursor.execute("SELECT name, id FROM organizations")
    [(name, organization_id)] = cursor.fetchall()
    assert name == "Acme Fleet"
    assert result.output == (
        f'Created organization "Acme Fleet" with ID {organization_id}\n'
    )


NAME = "name must be printable text and must not be a UUID."
SPAN = "--expires-in must be a positive time span, for example '90 days' or '12 hours'"
TAKEN = 'An organization named "Acme" already exists.'
UNKNOWN = (
    'The organization "Initech" does not exist. List the names with '
    '"flask list-keys", or create it with "flask create-organization NAME"'
)
KEY_ID = "00000000-0000-0000-0000-000000000000"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["create-organization", "Acme"],
            'An organization named "Acme" already exists.',
        ),
        *(
            case
            for name in ("", " ", "two\nlines", "\x1b[31mred", KEY_ID)
            for case in (
                (["create-organization", name], f"The organization {NAME}"),
                (["create-key", "Acme", "--name", name], f"The API key {NAME}"),
            )
        ),
        *(
            (["create-key", "Acme", f"--expires-in={span}"], f"{SPAN}, not '{span}'.")
            for span in (
                *("soon", "", "-1 day", "0", "90", "+90.5", "9999999 years", "1e99 s"),
            )
        ),
        (["create-key", "Initech"], UNKNOWN),
        (["list-keys", "Initech"], UNKNOWN),
        (["create-organization", "\udcff"], NAME),
        (["create-key", "\udcff"], "An argument is not valid UTF-8."),
        (
            ["revoke-key", KEY_ID],
            f"The API key {KEY_ID} does not exist. "
            "List all API keys with: flask list-keys",
        ),
    ],
)
def test_invalid_argument_is_reported(
    command: list[str], message: str, flask: Flask, acme: Organization
) -> None:
    result = flask(*command)
    assert (result.exit_code, result.output[:7]) == (1, "Error: ")
    assert result.output.endswith(f"{message}\n")
    acme.cursor.execute("SELECT o.name, k.name FROM organizations o, api_keys k")
    assert acme.cursor.fetchall() == [("Acme", "tests")]


def test_malformed_key_id_is_usage_error(flask: Flask) -> None:
    result = flask("revoke-key", "tlm_")
    assert result.exit_code == 2
    assert "'tlm_' is not a valid UUID" in result.output


@pytest.mark.parametrize("column", ["name", "id", "upper(id::text)"])
def test_created_key_works(
    column: str, flask: Flask, client: FlaskClient, acme: Organization
) -> None:
    acme.cursor.execute(f"SELECT {column}::text FROM organizations")
    [[organization]] = acme.cursor.fetchall()
    result = flask("create-key", f" {organization}\n", "--name", " nightly job ")
    assert re.fullmatch(
        rf'Created API key "nightly job" with ID {UUID}, which never expires\. '
        r"It is not shown again: tlm_[0-9a-f]{48}\n",
        result.output,
    )
    assert status(client, result.output.split()[-1]) == 200


def test_created_key_expires(flask: Flask, acme: Organization, cursor: Cursor) -> None:
    long = flask("create-key", "Acme", "--name", "long", "--expires-in", "3000 years")
    assert re.search(r", which expires [5-9]\d{3}-", long.output)
    result = flask("create-key", "Acme", "--expires-in", "90 days")
    assert re.search(rf", which expires {DATE}\. It is not ", result.output)
    cursor.execute(
        "SELECT extract(days FROM expires_at - created_at) FROM api_keys"
        " WHERE name = 'default'"
    )
    assert cursor.fetchall() == [(90,)]


def test_list_keys_shows_states_without_keys(
    flask: Flask, acme: Organization, globex: Organization, cursor: Cursor
) -> None:
    flask("create-key", "Acme", "--name", "expiring", "--expires-in", "1 hour")
    flask("create-key", "Acme", "--name", "expired", "--expires-in", "1 hour")
    flask("create-key", "Acme", "--name", "revoked")
    cursor.execute(
        "UPDATE api_keys SET expires_at = now() WHERE name = 'expired';"
        "UPDATE api_keys SET revoked_at = now() WHERE name = 'revoked'"
    )
    lines = flask("list-keys", "Acme").output.splitlines()
    for line, (state, expiry, name) in zip(
        lines,
        [
            ("active ", "never expires", "tests"),
            ("active ", f"expires {DATE}", "expiring"),
            ("expired", f"expires {DATE}", "expired"),
            ("revoked", "never expires", "revoked"),
        ],
        strict=True,
    ):
        pattern = rf"{UUID}  {state}  created {DATE}  {expiry}  Acme  {name}"
        assert re.fullmatch(pattern, line)
    all_keys = flask("list-keys").output
    assert all_keys.count("\n") == 5
    assert "Globex" in all_keys
    assert "tlm_" not in all_keys


def test_list_keys_without_keys_suggests_create_key(flask: Flask) -> None:
    assert flask("list-keys").output == (
        "No API keys exist. Create one with: flask create-key ORGANIZATION\n"
    )


def test_revoked_key_stops_working(
    flask: Flask, client: FlaskClient, acme: Organization
) -> None:
    [key_id] = re.findall(UUID, flask("list-keys").output)
    first = flask("revoke-key", key_id)
    assert re.fullmatch(
        rf"API key {key_id} was revoked at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d .+\n",
        first.output,
    )
    assert status(client, acme.key) == 401
    assert flask("revoke-key", key_id).output == first.output
