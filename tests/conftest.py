"""What the tests share: a real server, a database of their own, two organizations."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn
from werkzeug.test import TestResponse

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.accounts import create_key, create_organization
from bulk_metadata.db.schema import apply_schema
from tests.support.pgbouncer import PGBOUNCER, pgbouncer, version
from tests.support.postgres import postgres
from tests.support.service import PATH, Service, run_service

SERVER = pytest.StashKey[str]()
STOP = pytest.StashKey[ExitStack]()
LABEL = pytest.StashKey[str]()

# What stands between the service and its server in all tests, if anything.
POOLER = os.environ.get("TEST_POOLER")
DIRECT_ONLY = pytest.mark.skipif(
    bool(POOLER), reason="behind a pooler start-up options are dropped"
)

DATABASE = "bulk_metadata_test"
# A login of its own, so that the password of a real service's role is never touched.
LOGIN = {"user": "bulk_metadata_test", "password": "for-tests-only"}


def pytest_configure(config: pytest.Config) -> None:
    # The developer's own settings are not the tests'.
    for field in fields(Config):
        os.environ.pop(field.name.upper(), None)
    os.environ.pop("GUNICORN_CMD_ARGS", None)
    stop = config.stash[STOP] = ExitStack()
    if POOLER not in (None, "", "pgbouncer"):
        raise pytest.UsageError(f"TEST_POOLER must be pgbouncer, not {POOLER!r}.")
    if POOLER and PGBOUNCER is None:
        raise pytest.UsageError("TEST_POOLER=pgbouncer: PgBouncer is not installed.")
    url, label = stop.enter_context(postgres())
    try:
        connection = connect(url)
    except psycopg2.Error as error:
        raise pytest.UsageError(f"Cannot connect to {label}: {error}") from None
    number = connection.info.server_version // 10_000
    connection.close()
    config.stash[SERVER] = url
    through = f", through {version()}" if POOLER else ""
    config.stash[LABEL] = f"PostgreSQL {number}, {label}{through}"


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {config.stash[LABEL]}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.write_line(f"Tested on {config.stash[LABEL]}.")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[STOP].close()


def connect(url: str) -> Connection:
    """Return an autocommitting connection: a second pair of eyes beside the service."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


@pytest.fixture(scope="session")
def owner_url(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of a new database, for its owner."""
    server = connect(pytestconfig.stash[SERVER])
    with server.cursor() as cursor:
        drop = f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)"
        cursor.execute(drop)
        cursor.execute(f"CREATE DATABASE {DATABASE} ENCODING 'UTF8' TEMPLATE template0")
        cursor.execute(f"DROP ROLE IF EXISTS {LOGIN['user']}")
        cursor.execute("SELECT FROM pg_roles WHERE rolname = 'bulk_metadata_service'")
        made = cursor.fetchone() is None
        yield make_dsn(pytestconfig.stash[SERVER], dbname=DATABASE)
        cursor.execute(drop)
        cursor.execute(f"DROP ROLE IF EXISTS {LOGIN['user']}")
        if made:
            cursor.execute("DROP ROLE IF EXISTS bulk_metadata_service")
    server.close()


@pytest.fixture(scope="session")
def direct_url(owner_url: str) -> str:
    """The URL of the same database, its schema applied, for the service's role."""
    connection = connect(owner_url)
    with connection.cursor() as cursor:
        apply_schema(cursor)
        cursor.execute(
            f"CREATE ROLE {LOGIN['user']} LOGIN PASSWORD '{LOGIN['password']}'"
            " IN ROLE bulk_metadata_service"
        )
        # A role's settings are its own: members of it have none of them.
        cursor.execute(
            "SELECT unnest(setconfig) FROM pg_db_role_setting"
            " WHERE setrole = 'bulk_metadata_service'::regrole AND setdatabase = 0"
        )
        for [setting] in cursor.fetchall():
            name, _, value = setting.partition("=")
            cursor.execute(f"ALTER ROLE {LOGIN['user']} SET {name} = %s", (value,))
    connection.close()
    return make_dsn(owner_url, **LOGIN)


@pytest.fixture(scope="session")
def pooled_url(direct_url: str, owner_url: str) -> Iterator[str]:
    """The same through PgBouncer, which must be installed."""
    connection = connect(owner_url)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = %s", (LOGIN["user"],)
        )
        [[secret]] = cursor.fetchall()
    connection.close()
    with pgbouncer(direct_url, secret) as url:
        yield url


@pytest.fixture(scope="session")
def service_url(request: pytest.FixtureRequest) -> str:
    """The one of the two that this run is about."""
    url: str = request.getfixturevalue("pooled_url" if POOLER else "direct_url")
    return url


@pytest.fixture(scope="session")
def config(service_url: str) -> Config:
    return Config(database_url=service_url)


@pytest.fixture(scope="session")
def app(config: Config) -> Flask:
    return create_app(config)


@pytest.fixture(scope="session")
def service(
    service_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service under gunicorn, which none of its tests may make fail."""
    log = tmp_path_factory.mktemp("service") / "log"
    with run_service(log, DATABASE_URL=service_url) as service:
        yield service
    assert "Traceback" not in log.read_text()
    assert not [line for line in service.requests if "exception" in line]


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def connection(owner_url: str, service_url: str) -> Iterator[Connection]:
    connection = connect(owner_url)
    yield connection
    connection.close()


@pytest.fixture
def cursor(connection: Connection) -> Iterator[Cursor]:
    """The owner's cursor, on tables that are empty."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE organizations CASCADE")
        yield cursor


class Organization:
    """An organization, its key and its devices, from the owner's side."""

    def __init__(self, cursor: Cursor, name: str) -> None:
        self.cursor = cursor
        self.id = create_organization(cursor, name)
        self.key = self.create_key()

    def create_key(self, expires_in: str | None = None) -> str:
        return create_key(self.cursor, self.id, "tests", expires_in).text

    def insert(self, *identifiers: str, metadata: Any = None) -> None:
        """Create devices, last updated long ago."""
        self.cursor.execute(
            "INSERT INTO devices (organization_id, identifier, device_metadata,"
            " updated_at) SELECT %s, unnest(%s), %s, '2001-01-01'",
            (self.id, list(identifiers), json.dumps(metadata or {})),
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """Return every byte of every device, and which transaction wrote it."""
        self.cursor.execute(
            "SELECT *, xmin FROM devices WHERE organization_id = %s ORDER BY 3",
            (self.id,),
        )
        return self.cursor.fetchall()

    def metadata(self) -> dict[str, Any]:
        return {
            identifier: json.loads(text) for identifier, text in self.texts().items()
        }

    def texts(self) -> dict[str, str]:
        """Return the metadata as PostgreSQL writes it, every digit of it."""
        return self._by_identifier("device_metadata::text")

    def ids(self) -> dict[str, str]:
        return self._by_identifier("id::text")

    def updated(self) -> set[str]:
        """Return the identifiers of the devices that were updated."""
        updated = self._by_identifier("updated_at > now() - interval '1 hour'")
        return {identifier for identifier, is_updated in updated.items() if is_updated}

    def _by_identifier(self, column: str) -> dict[str, Any]:
        self.cursor.execute(
            f"SELECT identifier, {column} FROM devices WHERE organization_id = %s",
            (self.id,),
        )
        return dict(self.cursor.fetchall())


@pytest.fixture
def acme(cursor: Cursor) -> Organization:
    return Organization(cursor, "Acme")


@pytest.fixture
def globex(cursor: Cursor) -> Organization:
    return Organization(cursor, "Globex")


Post = Callable[..., TestResponse]


@pytest.fixture
def post(client: FlaskClient, acme: Organization) -> Post:
    """Send a body, or the JSON of anything else, with Acme's key by default."""

    def post(
        body: Any, key: str = acme.key, query: str = "", **headers: str
    ) -> TestResponse:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"x-api-key": key, **headers}
        return client.post(PATH, query_string=query, data=data, headers=headers)

    return post
