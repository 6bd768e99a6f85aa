"""``flask init-db`` upgrades every released schema while requests are served."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn, parse_dsn

import bulk_metadata
from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.schema import LOCK_SCHEMA, apply_schema
from tests.commands.conftest import runner
from tests.conftest import DATABASE, Organization, connect
from tests.support.cluster import BINARIES
from tests.support.service import ROOT
from tests.support.waiting import wait_until

SCHEMAS = sorted((ROOT / "tests" / "db" / "schemas").glob("*.sql"))
DISTINCT = [path for path in SCHEMAS if not path.is_symlink()]
FIRST = ROOT / "tests" / "db" / "schemas" / "first.sql"

ROLE = """
SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, setconfig::text
  FROM pg_roles JOIN pg_db_role_setting ON setrole = pg_roles.oid
 WHERE rolname = 'bulk_metadata_service'
   AND setdatabase = 0"""

PRIVILEGES = """
SELECT attrelid::regclass::text, attname, privilege_type
  FROM pg_attribute, aclexplode(attacl)
 WHERE grantee = 'bulk_metadata_service'::regrole"""

# Without the columns that an upgrade adds, which are NULL.
ROWS = """
SELECT organizations::text, xmin::text, ctid::text FROM organizations UNION ALL
SELECT api_keys::text, xmin::text, ctid::text FROM api_keys UNION ALL
SELECT rtrim(devices::text, ',)'), xmin::text, ctid::text FROM devices"""

# The statement of release 1.0.0.
OLD_UPDATE = """
   UPDATE devices
      SET device_metadata = sent.metadata,
          updated_at = clock_timestamp()
     FROM (SELECT member.key COLLATE "C" AS identifier, member.value AS metadata
             FROM (VALUES (%s)) AS object (json),
                  jsonb_each(object.json::jsonb) AS member
         ORDER BY identifier) AS sent
    WHERE devices.organization_id = %s
      AND devices.identifier = sent.identifier
RETURNING devices.identifier
"""

Create = Callable[[str], str]


@pytest.fixture(scope="module")
def create_database(owner_url: str) -> Iterator[Create]:
    """Create an empty database and return the URL of its owner."""
    with closing(connect(owner_url)) as server, server.cursor() as cursor:
        names = []

        def create(name: str) -> str:
            names.append(f"{DATABASE}_{name}")
            cursor.execute(f"DROP DATABASE IF EXISTS {names[-1]} WITH (FORCE)")
            cursor.execute(
                f"CREATE DATABASE {names[-1]} ENCODING 'UTF8' TEMPLATE template0"
            )
            return make_dsn(owner_url, dbname=names[-1])

        yield create
        for name in names:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def current(create_database: Create, direct_url: str) -> Any:
    """The schema and the role of a new database."""
    url = create_database("fresh")
    assert init_db(url) == ready(url)
    return schema(url)


@pytest.fixture
def database(create_database: Create, current: Any) -> str:
    return create_database("older")


def schema(url: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the schema as pg_dump writes it, and the role of the service."""
    dump = subprocess.run(
        [BINARIES / "pg_dump", "--schema-only", url],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    # Without the tokens of a dump, and the version numbers that Debian adds to columns.
    lines = [
        line
        for line in dump.splitlines()
        if not line.startswith("\\") and "pg_attver" not in line
    ]
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        return lines, select(cursor, ROLE)


def create_older(url: str, text: str) -> Connection:
    """Apply an older schema and insert rows. Return a connection of the owner."""
    connection = connect(url)
    with connection.cursor() as cursor:
        # All databases of the server share the role and its settings.
        cursor.execute("ALTER ROLE bulk_metadata_service RESET ALL")
        cursor.execute(text)
        for name in ("Acme", "Globex"):
            organization = Organization(cursor, name)
            organization.create_key("90 days")
            organization.insert("SN-1", "é" * 512, "\N{GRINNING FACE}")
            organization.insert("SN-2", metadata={"number": 1e300, "list": [None, ""]})
        cursor.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE expires_at > now()"
        )
    return connection


def select(cursor: Cursor, query: str) -> list[tuple[Any, ...]]:
    cursor.execute(query)
    return cursor.fetchall()


def without_version(output: str) -> str:
    return re.sub(r"PostgreSQL .+\)", "PostgreSQL)", output)


def init_db(url: str) -> tuple[int, str]:
    """Run the command and return its exit code and output."""
    result = runner(Config(database_url=url), url)("init-db")
    return result.exit_code, without_version(result.output)


def ready(url: str) -> tuple[int, str]:
    """Return the exit code and output of a successful run."""
    return 0, f'The database "{parse_dsn(url)["dbname"]}" is ready (PostgreSQL).\n'


def start_init_db(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flask", "init-db"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, without_version(output)


def waiting_command(cursor: Cursor, other_than: int = 0) -> int:
    """Wait until a command waits for a lock, and return the PID of its backend."""
    pids: list[int] = []

    def is_waiting() -> bool:
        rows = select(
            cursor,
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'bulk-metadata command'"
            " AND wait_event_type = 'Lock'",
        )
        pids[:] = [pid for [pid] in rows if pid != other_than]
        return bool(pids)

    wait_until(is_waiting, "a command that waits for a lock")
    return pids[0]


def old_request(url: str, direct_url: str) -> set[str]:
    """Update a device as release 1.0.0 does, within the timeouts of the service."""
    service_url = make_dsn(direct_url, dbname=parse_dsn(url)["dbname"])
    with (
        closing(connect(url)) as owner,
        closing(connect_service(Config(database_url=service_url))) as service,
    ):
        [[organization_id]] = select(
            owner.cursor(), "SELECT id FROM organizations WHERE name = 'Acme'"
        )
        cursor = service.cursor()
        cursor.execute(OLD_UPDATE, ('{"SN-2": {"a": 1}}', organization_id))
        return {identifier for [identifier] in cursor.fetchall()}


@pytest.mark.parametrize("path", DISTINCT, ids=lambda path: path.stem)
def test_older_schema_is_upgraded(
    path: Any, database: str, direct_url: str, current: Any
) -> None:
    service_url = make_dsn(direct_url, dbname=parse_dsn(database)["dbname"])
    service = create_app(Config(database_url=service_url)).test_client()
    with (
        closing(create_older(database, path.read_text())) as owner,
        owner.cursor() as cursor,
    ):
        rows, privileges = select(cursor, ROWS), set(select(cursor, PRIVILEGES))
        assert len(rows) == 14
        response = service.get("/readyz")
        assert response.status_code == 503
        assert response.json == {
            "error": "The schema is missing or out of date: run flask init-db"
        }
        for _ in range(2):
            assert init_db(database) == ready(database)
            assert schema(database) == current
            assert select(cursor, ROWS) == rows
        assert service.get("/readyz").status_code == 200
        # Until all replicas are replaced, the older service works, and may be started.
        assert privileges < set(select(cursor, PRIVILEGES))
        assert old_request(database, direct_url) == {"SN-2"}
        cursor.execute(path.read_text())
        assert schema(database) == current


def test_upgrade_retries_lock_while_requests_succeed(
    database: str, direct_url: str, current: Any
) -> None:
    with (
        closing(create_older(database, FIRST.read_text())) as owner,
        closing(connect(database)) as other,
    ):
        # An autovacuum to prevent wraparound holds this lock.
        other.cursor().execute("BEGIN; LOCK devices IN SHARE UPDATE EXCLUSIVE MODE")
        with start_init_db(database) as process:
            attempt = waiting_command(owner.cursor())
            assert old_request(database, direct_url) == {"SN-2"}
            waiting_command(owner.cursor(), other_than=attempt)
            other.cursor().execute("ROLLBACK")
            assert finish(process) == ready(database)
    assert schema(database) == current


def test_upgrade_without_lock_changes_nothing(
    database: str, current: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = LOCK_SCHEMA.replace("2s", "100ms")
    monkeypatch.setattr("bulk_metadata.db.schema.LOCK_SCHEMA", lock)
    monkeypatch.setattr("bulk_metadata.commands.transaction.PAUSE", 0)
    with (
        closing(create_older(database, FIRST.read_text())) as owner,
        closing(connect(database)) as other,
    ):
        before = schema(database), select(owner.cursor(), ROWS)
        other.cursor().execute("BEGIN; UPDATE devices SET updated_at = now()")
        assert init_db(database) == (
            1,
            "Error: Could not lock the tables in 3 attempts; the last error was: "
            "canceling statement due to lock timeout. The database is unchanged. Retry "
            "when no long transaction and no VACUUM holds a lock on the tables. "
            "pg_locks lists the sessions that hold them.\n",
        )
        page = (ROOT / "docs" / "upgrading.md").read_text()
        [query] = re.findall(r"```sql\n(.+?);\n```", page, re.DOTALL)
        pids = {pid for pid, *_ in select(owner.cursor(), query)}
        assert other.info.backend_pid in pids
        other.cursor().execute("ROLLBACK")
        assert (schema(database), select(owner.cursor(), ROWS)) == before


def test_current_schema_needs_no_lock(database: str, current: Any) -> None:
    """Neither VACUUM nor a backup nor a request blocks the command."""
    init_db(database)
    with closing(connect(database)) as other:
        other.cursor().execute(
            "BEGIN; LOCK organizations, api_keys, devices IN EXCLUSIVE MODE"
        )
        assert init_db(database) == ready(database)


@pytest.mark.parametrize("same", [True, False], ids=["one database", "two databases"])
def test_two_concurrent_upgrades_succeed(
    same: bool, database: str, create_database: Create, current: Any
) -> None:
    """Two databases share the role of the service."""
    another = database if same else create_database("another")
    with (
        closing(connect(another)) as owner,
        owner.cursor() as cursor,
        closing(connect(database)) as connection,
    ):
        cursor.execute("BEGIN")
        apply_schema(cursor)
        # More than the deadlock_timeout, less than the LOCK_TIMEOUT of the service.
        assert select(cursor, "SHOW lock_timeout") == [("2s",)]
        with start_init_db(database) as process:
            waiting_command(connection.cursor())
            cursor.execute("COMMIT")
            assert finish(process) == ready(database)
        assert schema(database) == current


def test_four_concurrent_upgrades_succeed(database: str, current: Any) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(start_init_db(database)) for _ in range(4)]
        assert [finish(process) for process in processes] == [ready(database)] * 4
    assert schema(database) == current


def test_owner_without_role_privilege_is_warned(database: str, owner_url: str) -> None:
    name = parse_dsn(database)["dbname"]
    with closing(connect(owner_url)) as server, server.cursor() as cursor:
        cursor.execute("CREATE ROLE owner_of_older LOGIN PASSWORD 'for-tests-only'")
        try:
            cursor.execute(f"ALTER DATABASE {name} OWNER TO owner_of_older")
            owner = {"user": "owner_of_older", "password": "for-tests-only"}
            code, output = init_db(make_dsn(database, **owner))
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cursor.execute("DROP ROLE owner_of_older")
    warning, done = output.splitlines(keepends=True)
    assert warning.startswith(
        "WARNING:  The settings of the role bulk_metadata_service are unchanged: "
    )
    assert (code, done) == ready(database)


def test_each_release_keeps_its_schema() -> None:
    """A release with the schema of the release before has a link to it."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    current, *older = re.findall(
        r"^## (\S+), \d{4}-\d\d-\d\d$", changelog, re.MULTILINE
    )
    assert current == bulk_metadata.__version__
    assert {"first", "second", *older} <= {path.stem for path in SCHEMAS}
