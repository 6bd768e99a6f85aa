"""The operators' commands: one line when they worked, a sentence when they did not."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from click.testing import Result
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from app import create_app
from bulk_metadata.config import Config
from tests.conftest import DATABASE, Organization, connect
from tests.support.service import PATH

Flask = Callable[..., Result]

DATE = r"\d{4}-\d\d-\d\d \d\d:\d\d \S+"
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def runner(config: Config) -> Flask:
    cli = create_app(config).test_cli_runner()

    def flask(*arguments: str) -> Result:
        return cli.invoke(args=arguments)

    return flask


@pytest.fixture
def flask(config: Config, owner_url: str, cursor: Cursor) -> Flask:
    """Run a command as the database's owner, on tables that are empty."""
    return runner(replace(config, database_url=owner_url))


def test_init_db(flask: Flask) -> None:
    result = flask("init-db")
    assert re.fullmatch(
        rf'The database "{DATABASE}" is ready \(PostgreSQL 1[5-8]\..+\)\.\n',
        result.output,
    )


def test_create_organization(flask: Flask, cursor: Cursor) -> None:
    result = flask("create-organization", " Acme Fleet ")
    cursor.execute("SELECT id, name FROM organizations")
    [(organization_id, name)] = cursor.fetchall()
    assert name == "Acme Fleet"
    assert result.output == (
        f'Created the organization "Acme Fleet" with the id {organization_id}\n'
    )


def test_an_organizations_name_is_its_own(flask: Flask) -> None:
    flask("create-organization", "Acme")
    result = flask("create-organization", "Acme")
    assert result.exit_code == 1
    assert result.output == 'Error: An organization named "Acme" exists already.\n'


@pytest.mark.parametrize(
    "name",
    ["", " ", "two\nlines", "\x1b[31mred", "00000000-0000-0000-0000-00000000000A"],
)
def test_a_name_can_be_read_and_told_from_an_id(
    name: str, flask: Flask, acme: Organization
) -> None:
    for what, command in (
        ("organization", ["create-organization", name]),
        ("key", ["create-key", "Acme", "--name", name]),
    ):
        result = flask(*command)
        assert result.exit_code == 1
        assert result.output == (
            f"Error: The {what}'s name must be text that can be printed, "
            "and not an id.\n"
        )


def test_names_are_trimmed(flask: Flask, acme: Organization) -> None:
    assert flask("create-key", " Acme ", "--name", " a ").exit_code == 0
    assert flask("list-keys", "Acme\n").output.count("Acme") == 2


def test_an_argument_that_is_no_text_is_refused(flask: Flask) -> None:
    for command in ("create-organization", "create-key", "list-keys"):
        result = flask(command, "\udcff")
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")


def test_a_created_key_works_and_is_the_last_word(
    flask: Flask, client: FlaskClient, acme: Organization
) -> None:
    for organization in ("Acme", acme.id, acme.id.upper()):
        result = flask("create-key", organization, "--name", "nightly job")
        assert re.fullmatch(
            rf'Created the key "nightly job" with the id {UUID}, which never expires; '
            r"it is shown only now: tlm_[0-9a-f]{48}\n",
            result.output,
        )
        key = result.output.split()[-1]
        body = '{"devices": {"SN-1": {}}}'
        response = client.post(PATH, data=body, headers={"x-api-key": key})
        assert response.status_code == 200


def test_a_key_may_expire(flask: Flask, acme: Organization, cursor: Cursor) -> None:
    result = flask("create-key", "Acme", "--expires-in", "90 days")
    assert re.search(rf", which expires {DATE}; it is shown only now: ", result.output)
    cursor.execute(
        "SELECT expires_at - created_at FROM api_keys WHERE name = 'default'"
    )
    [[span]] = cursor.fetchall()
    assert span.days == 90


@pytest.mark.parametrize(
    "span", ["soon", "", "-1 day", "0", "90", "+90.5", "9999999 years", "1e99 s"]
)
def test_a_span_that_is_none_is_refused(
    span: str, flask: Flask, acme: Organization, cursor: Cursor
) -> None:
    result = flask("create-key", "Acme", f"--expires-in={span}")
    assert result.exit_code == 1
    assert result.output == (
        "Error: --expires-in must be a time span above zero, "
        "like '90 days' or '12 hours'.\n"
    )
    cursor.execute("SELECT count(*) FROM api_keys WHERE name = 'default'")
    assert cursor.fetchall() == [(0,)]


@pytest.mark.parametrize(
    "command",
    [["create-key", "Nobody"], ["list-keys", "Nobody"]],
    ids=lambda command: command[0],
)
def test_an_unknown_organization_is_named(command: list[str], flask: Flask) -> None:
    result = flask(*command)
    assert result.exit_code == 1
    assert result.output == (
        'Error: There is no organization "Nobody". '
        "Create it with: flask create-organization NAME\n"
    )


def test_list_keys_shows_everything_but_the_keys(
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
    everything = flask("list-keys").output
    assert everything.count("\n") == 5
    assert "Globex" in everything
    assert "tlm_" not in everything


def test_list_keys_without_keys(flask: Flask) -> None:
    assert flask("list-keys").output == (
        "There are no keys. Create one with: flask create-key ORGANIZATION\n"
    )


def test_a_revoked_key_stops_working(
    flask: Flask, client: FlaskClient, acme: Organization
) -> None:
    [key_id] = re.findall(UUID, flask("list-keys").output)
    first = flask("revoke-key", key_id)
    assert re.fullmatch(
        rf"The key {key_id} is revoked since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d .+\n",
        first.output,
    )
    response = client.post(PATH, headers={"x-api-key": acme.key})
    assert response.status_code == 401
    # Again changes nothing, the time neither.
    assert flask("revoke-key", key_id).output == first.output


def test_an_unknown_key_is_named(flask: Flask) -> None:
    key_id = "00000000-0000-0000-0000-000000000000"
    result = flask("revoke-key", key_id)
    assert result.exit_code == 1
    assert result.output == (
        f"Error: There is no key with the id {key_id}. "
        "See them all with: flask list-keys\n"
    )
    result = flask("revoke-key", "tlm_")
    assert result.exit_code == 2
    assert "'tlm_' is not a valid UUID" in result.output


def test_the_services_role_is_not_enough(config: Config, acme: Organization) -> None:
    result = runner(config)("list-keys")
    assert result.exit_code == 1
    assert result.output.startswith("Error: permission denied for table ")
    assert "Let DATABASE_URL name the database's owner" in result.output


def test_a_database_that_is_down_is_named(config: Config) -> None:
    result = runner(replace(config, database_url="postgresql://127.0.0.1:1/down"))(
        "list-keys"
    )
    assert result.exit_code == 1
    assert result.output.startswith(
        "Error: Cannot connect to the database that DATABASE_URL names: "
    )
    assert result.output.count("\n") == 1


@pytest.fixture
def empty_database(owner_url: str) -> Iterator[Callable[[str], str]]:
    """Create a database without a schema, and return its URL."""
    connection = connect(owner_url)
    cursor = connection.cursor()
    name = f"{DATABASE}_empty"
    cursor.execute(f"DROP DATABASE IF EXISTS {name}")

    def create(encoding: str) -> str:
        cursor.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C'"
            " TEMPLATE template0"
        )
        return owner_url.replace(f"dbname={DATABASE}", f"dbname={name}")

    yield create
    cursor.execute(f"DROP DATABASE {name}")
    connection.close()


def test_a_database_without_tables_is_named(
    config: Config, empty_database: Callable[[str], str]
) -> None:
    flask = runner(replace(config, database_url=empty_database("UTF8")))
    result = flask("list-keys")
    assert result.exit_code == 1
    assert result.output == (
        "Error: The database has no tables yet. Create them with: flask init-db\n"
    )
    assert flask("init-db").exit_code == 0
    assert flask("list-keys").exit_code == 0


def test_a_database_that_cannot_hold_every_identifier_is_refused(
    config: Config, empty_database: Callable[[str], str]
) -> None:
    result = runner(replace(config, database_url=empty_database("LATIN1")))("init-db")
    assert result.exit_code == 1
    assert result.output.startswith("Error: The database's encoding is LATIN1.")


def test_another_error_is_said_in_a_line(flask: Flask, cursor: Cursor) -> None:
    cursor.execute("ALTER TABLE organizations RENAME name TO title")
    try:
        result = flask("create-organization", "Acme")
    finally:
        cursor.execute("ALTER TABLE organizations RENAME title TO name")
    assert result.exit_code == 1
    assert result.output == (
        'Error: column "name" of relation "organizations" does not exist\n'
    )
