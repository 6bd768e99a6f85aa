"""Database errors of the commands, and ``flask init-db`` on an empty database."""

import re
from collections.abc import Callable, Iterator

import pytest
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from bulk_metadata.config import Config
from tests.commands.conftest import Flask, runner
from tests.conftest import DATABASE, Organization, connect


def test_role_of_service_is_rejected(config: Config, acme: Organization) -> None:
    result = runner(config, config.database_url)("list-keys")
    assert result.exit_code == 1
    assert result.output.startswith("Error: permission denied for table ")
    assert "Set DATABASE_URL to connect as the owner of the database" in result.output


def test_unreachable_database_is_reported(config: Config) -> None:
    result = runner(config, "postgresql://127.0.0.1:1/down")("list-keys")
    assert result.exit_code == 1
    assert re.fullmatch(
        r"Error: Cannot connect to the database in DATABASE_URL: .+\n", result.output
    )


@pytest.fixture
def empty_database(owner_url: str) -> Iterator[Callable[[str], str]]:
    """Create a database without a schema and return its URL."""
    connection = connect(owner_url)
    cursor = connection.cursor()
    name = f"{DATABASE}_empty"
    cursor.execute(f"DROP DATABASE IF EXISTS {name}")

    def create(encoding: str) -> str:
        cursor.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C'"
            " TEMPLATE template0"
        )
        return make_dsn(owner_url, dbname=name)

    yield create
    cursor.execute(f"DROP DATABASE {name}")
    connection.close()


def test_missing_tables_are_created_by_init_db(
    config: Config, empty_database: Callable[[str], str]
) -> None:
    flask = runner(config, empty_database("UTF8"))
    result = flask("list-keys")
    assert result.exit_code == 1
    assert result.output == (
        "Error: The database has no tables. Create them with: flask init-db\n"
    )
    result = flask("init-db")
    assert re.fullmatch(
        rf'The database "{DATABASE}_empty" is ready \(PostgreSQL 1[5-8]\..+\)\.\n',
        result.output,
    )
    assert flask("list-keys").exit_code == 0


def test_encoding_other_than_utf8_is_rejected(
    config: Config, empty_database: Callable[[str], str]
) -> None:
    result = runner(config, empty_database("LATIN1"))("init-db")
    assert result.exit_code == 1
    assert result.output.startswith("Error: The encoding of the database is LATIN1,")


def test_other_error_is_reported_in_one_line(flask: Flask, cursor: Cursor) -> None:
    cursor.execute("ALTER TABLE organizations RENAME name TO title")
    try:
        result = flask("create-organization", "Acme")
    finally:
        cursor.execute("ALTER TABLE organizations RENAME title TO name")
    assert result.exit_code == 1
    assert result.output == (
        'Error: column "name" of relation "organizations" does not exist\n'
    )
