"""The schema: its constraints, the privileges of the service, and the query plan."""

from typing import Any

import pytest
from msgspec import Raw
from psycopg2.errors import CheckViolation, InsufficientPrivilege, UniqueViolation
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.queries import PREPARED, update_metadata
from bulk_metadata.db.schema import SCHEMA_FILE
from tests.api.test_update import WHITE_SPACE
from tests.conftest import Organization


@pytest.mark.parametrize("identifier", ["", *(f"SN{c}" for c in WHITE_SPACE), " SN"])
def test_identifier_is_trimmed_and_not_empty(
    identifier: str, acme: Organization
) -> None:
    with pytest.raises(CheckViolation):
        acme.insert(identifier)


def test_identifier_has_at_most_1024_bytes(acme: Organization) -> None:
    acme.insert("é" * 512)
    with pytest.raises(CheckViolation):
        acme.insert("é" * 512 + "x")


@pytest.mark.parametrize("metadata", [[1], "text", 1, True])
def test_metadata_is_object(metadata: object, acme: Organization) -> None:
    with pytest.raises(CheckViolation):
        acme.insert("SN-1", metadata=metadata)


def test_identifier_is_unique_in_organization(
    acme: Organization, globex: Organization
) -> None:
    acme.insert("SN-1", "sn-1")
    globex.insert("SN-1")
    with pytest.raises(UniqueViolation):
        acme.insert("SN-1")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO devices (organization_id, identifier) SELECT organization_id, 'x'"
        " FROM devices",
        "DELETE FROM devices",
        "TRUNCATE devices",
        "DROP TABLE devices",
        "ALTER TABLE devices ADD COLUMN x int",
        "CREATE INDEX ON devices (identifier)",
        "UPDATE devices SET identifier = 'x'",
        "UPDATE devices SET id = gen_random_uuid()",
        "UPDATE devices SET organization_id = gen_random_uuid()",
        "UPDATE devices SET created_at = now()",
        "SELECT device_metadata FROM devices",
        "SELECT name FROM api_keys",
        "INSERT INTO api_keys DEFAULT VALUES",
        "UPDATE api_keys SET revoked_at = NULL",
        "DELETE FROM api_keys",
        "SELECT FROM organizations",
        "INSERT INTO organizations (name) VALUES ('x')",
        "CREATE TABLE x ()",
        "CREATE ROLE x",
    ],
)
def test_service_role_has_no_other_privilege(
    statement: str, config: Config, acme: Organization
) -> None:
    acme.insert("SN-1")
    connection = connect_service(config)
    with connection.cursor() as cursor, pytest.raises(InsufficientPrivilege):
        cursor.execute(statement)
    connection.close()


def test_service_role_has_plan_and_timeouts(cursor: Cursor) -> None:
    cursor.execute(
        "SELECT unnest(setconfig) FROM pg_db_role_setting JOIN pg_roles"
        " ON pg_roles.oid = setrole WHERE rolname = 'bulk_metadata_service'"
    )
    assert {setting for [setting] in cursor.fetchall()} == {
        "enable_hashjoin=off",
        "enable_mergejoin=off",
        "enable_seqscan=off",
        "enable_bitmapscan=off",
        "jit=off",
        "random_page_cost=0",
        "cpu_operator_cost=0",
        "lock_timeout=4s",
        "statement_timeout=6s",
    }


def nodes(plan: dict[str, Any]) -> list[str]:
    """Return the nodes of the plan in depth-first order, each with its index."""
    name = " ".join(filter(None, [plan["Node Type"], plan.get("Index Name")]))
    return [name, *(node for part in plan.get("Plans", []) for node in nodes(part))]


INDEX_SCAN = "Index Scan devices_organization_id_identifier_key"
# The devices of the request are sorted before the first lookup.
SENT = ["Subquery Scan", "Sort", "Nested Loop", "Function Scan", "Function Scan"]


def plan(connection: Connection, acme: Organization, identifiers: list[str]) -> Any:
    """Return the plan of the statement that the service runs."""
    with connection.cursor() as cursor:
        update_metadata(cursor, acme.id, dict.fromkeys(identifiers, Raw(b"{}")))
        cursor.execute(b"EXPLAIN (FORMAT JSON) " + (cursor.query or b""))
        [[[explained]]] = cursor.fetchall()
    return nodes(explained["Plan"])


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("statistics", ["none", "up to date", "without Acme"])
@pytest.mark.parametrize("fleet", [10, 100_000])
def test_plan_is_index_nested_loop(
    fleet: int,
    statistics: str,
    prepared: bool,
    config: Config,
    acme: Organization,
    globex: Organization,
) -> None:
    if statistics == "without Acme":
        globex.insert(*map(str, range(1000)))
        acme.cursor.execute("ANALYZE devices")
    identifiers = [f"SN-{number:06}" for number in range(fleet)]
    acme.insert(*identifiers, metadata={"a": 1})
    if statistics == "up to date":
        acme.cursor.execute("ANALYZE devices")
    connection = connect_service(config)
    if prepared:
        connection.prepare(PREPARED)
    for batch in (1, 10, 1000):
        found = plan(connection, acme, [*identifiers, *map(str, range(1000))][:batch])
        expected = [[*SENT, INDEX_SCAN]]
        if fleet == 10:
            # The order of two small inputs varies. Locks follow the index in both.
            expected.append([INDEX_SCAN, *SENT])
        assert found[:2] == ["ModifyTable", "Nested Loop"]
        assert found[2:] in expected
    connection.close()


def updates(cursor: Cursor) -> tuple[int, int]:
    """Return the number of updated devices of the session, and of heap-only updates."""
    cursor.execute(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables"
        " WHERE relname = 'devices'"
    )
    [(all_updates, heap_only)] = cursor.fetchall()
    return all_updates, heap_only


def test_updates_are_heap_only(config: Config, acme: Organization) -> None:
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers)
    connection = connect_service(config)
    connection.autocommit = False
    with connection.cursor() as cursor:
        # The statistics of a session are not reset.
        before = updates(cursor)
        documents = dict.fromkeys(identifiers[::5], Raw(b'{"a": 1}'))
        update_metadata(cursor, acme.id, documents)
        after = updates(cursor)
    assert [now - then for now, then in zip(after, before, strict=True)] == [200, 200]
    connection.close()


def test_psql_can_apply_schema() -> None:
    """schema.sql contains neither commands of psql nor a transaction."""
    text = SCHEMA_FILE.read_text()
    assert "\n\\" not in text
    assert "BEGIN;" not in text
