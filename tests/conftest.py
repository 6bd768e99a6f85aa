"""Fixtures of all tests: a real PostgreSQL, a database and two organizations."""

import io
import json
import os
import signal
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
from xdist.scheduler import LoadScopeScheduling

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.accounts import create_key, create_organization
from bulk_metadata.telemetry import access_log
from tests.support.postgres import DATABASE as DATABASE
from tests.support.postgres import LOGIN as LOGIN
from tests.support.postgres import PROCESS, TestDatabases, postgres
from tests.support.postgres import connect as connect
from tests.support.proxies import PGBOUNCER, pgbouncer, pgbouncer_version
from tests.support.service import PATH, Service, run_service

pytest_plugins = ["tests.report", "tests.random_search"]

SERVER_URL = pytest.StashKey[str]()
CLEANUP = pytest.StashKey[ExitStack]()
LABEL = pytest.StashKey[str]()
DATABASES = pytest.StashKey[TestDatabases]()

# The pooler between the service and its server in all tests, if any.
POOLER = os.environ.get("TEST_POOLER")
DIRECT_ONLY = pytest.mark.skipif(
    bool(POOLER),
    reason="start-up options, which PgBouncer drops. To test them: unset TEST_POOLER",
)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server. The workers of pytest-xdist use that of their controller."""
    # The settings of the developer must not affect the tests.
    for field in fields(Config):
        os.environ.pop(field.name.upper(), None)
    os.environ.pop("GUNICORN_CMD_ARGS", None)
    # Shells start background jobs with SIGINT ignored, and nohup ignores SIGHUP.
    # Processes inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    cleanup = config.stash[CLEANUP] = ExitStack()
    if hasattr(config, "workerinput"):
        config.stash[SERVER_URL] = config.workerinput["server_url"]
        config.stash[LABEL] = config.workerinput["label"]
        return
    if POOLER not in (None, "", "pgbouncer"):
        raise pytest.UsageError(f"TEST_POOLER must be pgbouncer, not {POOLER!r}.")
    if POOLER and PGBOUNCER is None:
        raise pytest.UsageError("TEST_POOLER=pgbouncer: PgBouncer is not installed.")
    url, label = cleanup.enter_context(postgres())
    try:
        connection = connect(url)
    except psycopg2.Error as error:
        raise pytest.UsageError(f"Cannot connect to {label}: {error}") from None
    major = connection.info.server_version // 10_000
    connection.close()
    through = f", through {pgbouncer_version()}" if POOLER else ""
    config.stash[LABEL] = f"PostgreSQL {major}, {label}{through}"
    config.stash[SERVER_URL] = url
    databases = config.stash[DATABASES] = TestDatabases(url)
    cleanup.callback(databases.drop)
    if not config.option.tx:
        databases.create(PROCESS)


def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist its database."""
    node.workerinput["server_url"] = node.config.stash[SERVER_URL]
    node.workerinput["label"] = node.config.stash[LABEL]
    node.config.stash[DATABASES].create(node.gateway.id)


# Tests that run in one process, by the reason.
ONE_PROCESS = {
    "changes the role, which belongs to all databases of the server": (
        "tests/db/test_schema.py",
        "tests/db/test_upgrade.py",
        "tests/commands/test_transaction.py::test_missing_tables_are_created_by_init_db",
        "tests/system/test_readme.py::test_commands_from_init_db_to_import",
    ),
    "starts a dedicated server": (
        "tests/browser/",
        "tests/citus/",
        "tests/containers/",
        "tests/faults/test_undo.py",
    ),
}


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # has no types
    """Distributes single tests, except the ones that must run in one process."""

    def _split_scope(self, nodeid: str) -> str:
        for reason, files in ONE_PROCESS.items():
            if nodeid.startswith(files):
                return reason
        return nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {config.stash[LABEL]}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.write_line(f"Tested on {config.stash[LABEL]}.")


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[CLEANUP].close()


@pytest.fixture(scope="session")
def owner_url(pytestconfig: pytest.Config) -> str:
    """The URL of a database with the schema, for its owner."""
    return make_dsn(pytestconfig.stash[SERVER_URL], dbname=DATABASE)


@pytest.fixture(scope="session")
def direct_url(owner_url: str) -> str:
    """The URL of the same database, for the service's role."""
    return make_dsn(owner_url, **LOGIN)


@pytest.fixture(scope="session")
def pooled_url(direct_url: str, owner_url: str) -> Iterator[str]:
    """The URL of the same database through PgBouncer, which must be installed."""
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
    """The URL of the database, through the pooler that TEST_POOLER names."""
    url: str = request.getfixturevalue("pooled_url" if POOLER else "direct_url")
    return url


@pytest.fixture(scope="session")
def config(service_url: str) -> Config:
    return Config(database_url=service_url)


@pytest.fixture(scope="session")
def app(config: Config) -> Flask:
    return create_app(config)


RunService = Callable[..., Service]


@pytest.fixture(scope="session")
def shared_service(
    service_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunService]:
    """Return the running service with the given settings, started on first use.

    Tests share it, so they must not stop it or cause errors in its log.
    """
    services: dict[frozenset[tuple[str, str]], Service] = {}
    with ExitStack() as stack:

        def run(**settings: str) -> Service:
            key = frozenset(settings.items())
            if key not in services:
                log = tmp_path_factory.mktemp("service") / "log"
                settings = {"DATABASE_URL": service_url, **settings}
                services[key] = stack.enter_context(run_service(log, **settings))
            return services[key]

        yield run
    for service in services.values():
        assert "Traceback" not in service.log.read_text()
        assert not [line for line in service.requests if "exception" in line]


@pytest.fixture(scope="session")
def service(shared_service: RunService) -> Service:
    """The shared service with the default settings."""
    return shared_service()


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
    """A cursor of the owner, on empty tables."""
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE organizations CASCADE")
        yield cursor


class Organization:
    """An organization with an API key and devices, accessed as the owner."""

    def __init__(self, cursor: Cursor, name: str) -> None:
        self.cursor = cursor
        self.id = create_organization(cursor, name)
        self.key = self.create_key()

    def create_key(self, expires_in: str | None = None) -> str:
        return create_key(self.cursor, self.id, "tests", expires_in).text

    def insert(self, *identifiers: str, metadata: Any = None) -> None:
        """Create devices that were last updated in 2001."""
        self.cursor.execute(
            "INSERT INTO devices (organization_id, identifier, device_metadata,"
            " updated_at) SELECT %s, unnest(%s), %s, '2001-01-01'",
            (self.id, list(identifiers), json.dumps(metadata or {})),
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """Return all columns of all devices, and the transaction that wrote each."""
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
        """Return the metadata in the text form of PostgreSQL."""
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


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The access log of requests that are handled in this process."""
    stream = io.StringIO()
    access_log.set_up(stream)
    yield stream
    access_log.set_up(None)


Post = Callable[..., TestResponse]


@pytest.fixture
def post(client: FlaskClient, acme: Organization) -> Post:
    """Send a body (bytes, text, or an object to encode) with the API key of Acme."""

    def post(
        body: Any, key: str = acme.key, query: str = "", **headers: str
    ) -> TestResponse:
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        headers = {"x-api-key": key, **headers}
        return client.post(PATH, query_string=query, data=data, headers=headers)

    return post
