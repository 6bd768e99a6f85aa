"""Upgrades: flask init-db brings every schema since the first up to date, online."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn, parse_dsn

import bulk_metadata
from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.schema import apply_schema
from tests.commands.conftest import runner
from tests.conftest import DATABASE, Organization, connect
from tests.support.service import ROOT

SCHEMAS = ROOT / "tests" / "db" / "schemas"
RELEASED = sorted(SCHEMAS.glob("*.sql"), key=lambda path: path.stem != "first")
# A release that left the schema as it was leaves nothing to upgrade to the next one.
PRESENT = (ROOT / "schema.sql").read_text()
OLDER = [path for path in RELEASED if path.read_text() != PRESENT]

# A role belongs to the whole server: it has these before an older schema is applied.
RESET_SETTINGS = """
ALTER ROLE bulk_metadata_service RESET enable_hashjoin;
ALTER ROLE bulk_metadata_service RESET enable_mergejoin;
ALTER ROLE bulk_metadata_service RESET enable_seqscan;
ALTER ROLE bulk_metadata_service RESET enable_bitmapscan;
ALTER ROLE bulk_metadata_service RESET jit;
ALTER ROLE bulk_metadata_service RESET random_page_cost;
ALTER ROLE bulk_metadata_service RESET cpu_operator_cost;
ALTER ROLE bulk_metadata_service RESET lock_timeout;
ALTER ROLE bulk_metadata_service RESET statement_timeout;
"""

# What two databases with the same schema have in common.
CATALOGS = {
    "tables": """
SELECT relname, relkind, relpersistence, relrowsecurity, reloptions, relacl::text,
       pg_get_userbyid(relowner)
  FROM pg_class
 WHERE relnamespace = 'public'::regnamespace""",
    "columns": """
SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod), attnotnull,
       attcollation::regcollation::text, attstorage, attcompression, attidentity,
       attgenerated, coalesce(attstattarget, -1), pg_get_expr(adbin, adrelid),
       attacl::text
  FROM pg_attribute
       JOIN pg_class ON pg_class.oid = attrelid
       LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE relnamespace = 'public'::regnamespace
   AND attnum > 0
   AND NOT attisdropped""",
    "constraints": """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated
  FROM pg_constraint
 WHERE connamespace = 'public'::regnamespace""",
    "indexes": """
SELECT pg_get_indexdef(indexrelid), indisvalid, indisprimary, indisreplident
  FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
 WHERE relnamespace = 'public'::regnamespace""",
    "functions": """
SELECT oid::regprocedure::text
  FROM pg_proc
 WHERE pronamespace = 'public'::regnamespace""",
    "triggers": """
SELECT pg_get_triggerdef(oid)
  FROM pg_trigger
 WHERE NOT tgisinternal""",
    "role": """
SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls,
       unnest(setconfig)
  FROM pg_roles JOIN pg_db_role_setting ON setrole = pg_roles.oid
 WHERE rolname = 'bulk_metadata_service'
   AND setdatabase = 0""",
}

PRIVILEGES = """
SELECT attrelid::regclass::text, attname, privilege_type
  FROM pg_attribute, aclexplode(attacl)
 WHERE grantee = 'bulk_metadata_service'::regrole"""

ROWS = """
SELECT organizations::text, xmin::text, ctid::text FROM organizations UNION ALL
SELECT api_keys::text, xmin::text, ctid::text FROM api_keys UNION ALL
SELECT devices::text, xmin::text, ctid::text FROM devices"""

Create = Callable[[str], str]


@pytest.fixture(scope="module")
def create_database(owner_url: str) -> Iterator[Create]:
    """Create an empty database and return its owner's URL."""
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
def fresh(create_database: Create, direct_url: str) -> dict[str, Any]:
    """The catalogs of a database that init-db has just made."""
    url = create_database("fresh")
    assert init_db(url) == ready(url)
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        return catalogs(cursor)


@pytest.fixture
def database(create_database: Create, fresh: dict[str, Any]) -> str:
    """An empty database, on a server where the service's role exists."""
    return create_database("older")


def make(database: str, schema: Path) -> Connection:
    """Apply an older schema as its release did, and fill it."""
    connection = connect(database)
    with connection.cursor() as cursor:
        cursor.execute(RESET_SETTINGS)
        cursor.execute(schema.read_text())
        for name in ("Acme", "Globex"):
            organization = Organization(cursor, name)
            organization.create_key("90 days")
            organization.insert("SN-1", "é" * 512, "\N{GRINNING FACE}")
            organization.insert("SN-2", metadata={"number": 1e300, "list": [None, ""]})
        cursor.execute(
            "UPDATE api_keys SET revoked_at = now() WHERE expires_at > now()"
        )
    return connection


@pytest.fixture(params=OLDER, ids=lambda path: path.stem)
def older(request: pytest.FixtureRequest, database: str) -> Iterator[Connection]:
    """The owner's connection to a database with an older schema, and rows in it."""
    with closing(make(database, request.param)) as connection:
        yield connection


@pytest.fixture
def first(database: str) -> Iterator[Connection]:
    """The same with the first schema, whose upgrade takes the most locks."""
    with closing(make(database, SCHEMAS / "first.sql")) as connection:
        yield connection


def catalogs(cursor: Cursor) -> dict[str, Any]:
    return {name: set(select(cursor, query)) for name, query in CATALOGS.items()}


def select(cursor: Cursor, query: str) -> list[tuple[Any, ...]]:
    cursor.execute(query)
    # A list cannot be in a set.
    return [
        tuple(tuple(value) if isinstance(value, list) else value for value in row)
        for row in cursor.fetchall()
    ]


def init_db(url: str) -> tuple[int, str]:
    """Run the command, and return its exit code and what it said."""
    result = runner(Config(database_url=url), url)("init-db")
    return result.exit_code, re.sub(r"PostgreSQL .+\)", "PostgreSQL)", result.output)


def ready(url: str) -> tuple[int, str]:
    """Return what the command says when all went well."""
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


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=60)
    return process.returncode, re.sub(r"PostgreSQL .+\)", "PostgreSQL)", output)


WAITING = """
SELECT pid
  FROM pg_stat_activity
 WHERE datname = current_database()
   AND application_name = 'bulk-metadata command'
   AND wait_event_type = 'Lock'"""


def waiting(cursor: Cursor, besides: int = 0) -> int:
    """Wait until a command waits for a lock, and return its process in the server."""
    for _ in range(6000):
        for [pid] in select(cursor, WAITING):
            if pid != besides:
                return int(pid)
        time.sleep(0.01)
    raise AssertionError("no command waits for a lock")


# As release 1.0.0 sends it.
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
RETURNING devices.identifier, devices.id
"""


def write(connection: Connection, direct_url: str) -> None:
    """Update a device as the older service does, which gives up waiting."""
    with connection.cursor() as cursor:
        [[organization_id]] = select(
            cursor, "SELECT id FROM organizations WHERE name = 'Acme'"
        )
    url = make_dsn(direct_url, dbname=connection.info.dbname)
    with (
        closing(connect_service(Config(database_url=url))) as service,
        service.cursor() as cursor,
    ):
        cursor.execute(OLD_UPDATE, ('{"SN-2": {"a": 1}}', organization_id))
        assert dict(cursor.fetchall()).keys() == {"SN-2"}


def test_an_older_schema_becomes_what_a_new_one_is(
    older: Connection, database: str, fresh: dict[str, Any]
) -> None:
    with older.cursor() as cursor:
        rows = select(cursor, ROWS)
        assert len(rows) == 14
        assert catalogs(cursor) != fresh
        for _ in range(2):
            assert init_db(database) == ready(database)
            assert catalogs(cursor) == fresh
            assert select(cursor, ROWS) == rows


def test_an_older_service_keeps_what_it_needs(older: Connection, database: str) -> None:
    """While replicas are replaced, those that are left work on the new schema."""
    with older.cursor() as cursor:
        before = set(select(cursor, PRIVILEGES))
        init_db(database)
        assert before < set(select(cursor, PRIVILEGES))


@pytest.mark.parametrize("schema", OLDER, ids=lambda path: path.stem)
def test_an_older_init_db_takes_nothing_back(
    schema: Path, database: str, fresh: dict[str, Any]
) -> None:
    """While replicas are replaced, one that is left may start again."""
    init_db(database)
    with closing(connect(database)) as connection, connection.cursor() as cursor:
        cursor.execute(schema.read_text())
        assert catalogs(cursor) == fresh


def test_release_1_0_0_works_on_the_new_schema(
    database: str, direct_url: str, fresh: dict[str, Any]
) -> None:
    init_db(database)
    url = make_dsn(direct_url, dbname=parse_dsn(database)["dbname"])
    with closing(connect(database)) as owner, closing(connect(url)) as service:
        acme = Organization(owner.cursor(), "Acme")
        acme.insert("SN-1")
        cursor = service.cursor()
        cursor.execute(
            "SELECT organization_id FROM api_keys WHERE key_hash = %s"
            " AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
            (digest(acme.key),),
        )
        assert cursor.fetchall() == [(acme.id,)]
        cursor.execute(OLD_UPDATE, ('{"SN-1": {"a": 1}}', acme.id))
        assert dict(cursor.fetchall()) == acme.ids()
        assert acme.metadata() == {"SN-1": {"a": 1}}


def test_a_new_service_waits_for_the_new_schema(
    older: Connection, database: str, direct_url: str
) -> None:
    """It is not ready, and says why, so a roll-out stops at the first replica."""
    url = make_dsn(direct_url, dbname=older.info.dbname)
    client = create_app(Config(database_url=url)).test_client()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json == {
        "error": "The schema is missing or out of date: run flask init-db"
    }
    init_db(database)
    assert client.get("/readyz").status_code == 200


def test_a_writer_that_is_not_done_keeps_no_upgrade_waiting(
    older: Connection, database: str, fresh: dict[str, Any]
) -> None:
    with closing(connect(database)) as writer, writer.cursor() as cursor:
        cursor.execute("BEGIN; UPDATE devices SET updated_at = now()")
        assert init_db(database) == ready(database)
        assert catalogs(cursor) == fresh
        cursor.execute("COMMIT")


def test_an_upgrade_that_is_not_done_keeps_no_writer_waiting(
    older: Connection, database: str, direct_url: str
) -> None:
    with closing(connect(database)) as owner, owner.cursor() as cursor:
        cursor.execute("BEGIN")
        apply_schema(cursor)
        write(older, direct_url)
        cursor.execute("COMMIT")


@pytest.mark.parametrize("mode", ["SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE"])
def test_an_upgrade_that_gets_no_lock_says_so_and_changes_nothing(
    mode: str, first: Connection, database: str, direct_url: str
) -> None:
    """The one is what VACUUM holds, the other what rewrites a table."""
    with first.cursor() as cursor, closing(connect(database)) as other:
        before = catalogs(cursor), select(cursor, ROWS)
        other.cursor().execute(f"BEGIN; LOCK TABLE devices IN {mode} MODE")
        assert init_db(database) == (
            1,
            "Error: Could not lock the tables in 3 attempts; the last error was: "
            "canceling statement due to lock timeout. The database is unchanged. Retry "
            "when no long transaction and no VACUUM holds a lock on the tables. "
            "pg_locks lists the sessions that hold them.\n",
        )
        page = (ROOT / "docs" / "upgrading.md").read_text()
        [who] = re.findall(r"```sql\n(.+?);\n```", page, re.DOTALL)
        assert other.info.backend_pid in {pid for pid, *_ in select(cursor, who)}
        other.cursor().execute("ROLLBACK")
        assert (catalogs(cursor), select(cursor, ROWS)) == before
    assert init_db(database) == ready(database)


def test_an_upgrade_that_waits_keeps_no_writer_waiting_and_tries_again(
    first: Connection, database: str, direct_url: str, fresh: dict[str, Any]
) -> None:
    with first.cursor() as cursor, closing(connect(database)) as other:
        other.cursor().execute("BEGIN; LOCK devices IN SHARE UPDATE EXCLUSIVE MODE")
        with start_init_db(database) as process:
            attempt = waiting(cursor)
            write(first, direct_url)
            waiting(cursor, besides=attempt)
            other.cursor().execute("ROLLBACK")
            assert end(process) == ready(database)
        assert catalogs(cursor) == fresh


def test_a_schema_that_is_up_to_date_needs_no_lock(
    database: str, fresh: dict[str, Any]
) -> None:
    """None that VACUUM, a backup or a writer could stand in the way of."""
    init_db(database)
    with closing(connect(database)) as other:
        other.cursor().execute(
            "BEGIN; LOCK organizations, api_keys, devices IN EXCLUSIVE MODE"
        )
        assert init_db(database) == ready(database)


@pytest.mark.parametrize("same", [True, False], ids=["one database", "two databases"])
def test_of_two_at_once_both_succeed(
    same: bool, database: str, create_database: Create, fresh: dict[str, Any]
) -> None:
    """In two databases they meet at the role, which belongs to the whole server."""
    another = database if same else create_database("another")
    with closing(connect(another)) as owner, owner.cursor() as cursor:
        cursor.execute("BEGIN")
        apply_schema(cursor)
        with (
            closing(connect(database)) as connection,
            connection.cursor() as second,
            start_init_db(database) as process,
        ):
            waiting(second)
            cursor.execute("COMMIT")
            assert end(process) == ready(database)
            assert catalogs(second) == fresh


def test_of_many_at_once_all_succeed(database: str, fresh: dict[str, Any]) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(start_init_db(database)) for _ in range(4)]
        assert [end(process) for process in processes] == [ready(database)] * 4
    with closing(connect(database)) as connection, connection.cursor() as cursor:
        assert catalogs(cursor) == fresh


def test_a_lock_is_waited_for_for_two_seconds_and_only_by_the_upgrade(
    database: str, fresh: dict[str, Any]
) -> None:
    """Longer than until autovacuum gives way, shorter than until a call fails that
    queues behind it."""
    with closing(connect(database)) as owner, owner.cursor() as cursor:
        before = select(cursor, "SHOW lock_timeout")
        cursor.execute("BEGIN")
        apply_schema(cursor)
        assert select(cursor, "SHOW lock_timeout") == [("2s",)]
        cursor.execute("COMMIT")
        apply_schema(cursor)
        assert select(cursor, "SHOW lock_timeout") == before


def test_an_owner_who_may_not_alter_the_role_is_told(
    database: str, owner_url: str
) -> None:
    """The tables are made, and the role's settings are somebody else's to make."""
    name = parse_dsn(database)["dbname"]
    with closing(connect(owner_url)) as server, server.cursor() as cursor:
        cursor.execute("CREATE ROLE owner_of_older LOGIN PASSWORD 'for-tests-only'")
        try:
            cursor.execute(f"ALTER DATABASE {name} OWNER TO owner_of_older")
            owner = {"user": "owner_of_older", "password": "for-tests-only"}
            code, said = init_db(make_dsn(database, **owner))
        finally:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
            cursor.execute("DROP ROLE owner_of_older")
    warning, done = said.splitlines(keepends=True)
    assert warning.startswith(
        "WARNING:  The settings of bulk_metadata_service are left as they are: "
    )
    assert (code, done) == ready(database)


def test_the_changelog_begins_with_this_version() -> None:
    assert releases()[0] == bulk_metadata.__version__


def test_every_earlier_release_has_left_its_schema() -> None:
    assert {*releases()[1:], "first", "second"} == {path.stem for path in RELEASED}


def releases() -> list[str]:
    """Return the versions that the changelog tells of, the newest first."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    return re.findall(r"^## (\S+), \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
