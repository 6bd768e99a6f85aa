from collections.abc import Callable

import pytest
from msgspec import Raw
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database, DatabaseError
from bulk_metadata.db.prepared import ServiceConnection
from bulk_metadata.db.queries import dry_run_update, update_metadata
from tests.conftest import POOLER, Organization

DOCUMENTS = {"SN-1": Raw(b'{"a": 1}')}


@pytest.fixture
def database(config: Config) -> Database:
    return Database(config)


def is_prepared(cursor: Cursor) -> bool:
    assert isinstance(cursor.connection, ServiceConnection)
    return cursor.connection.is_prepared


def deallocate(cursor: Cursor) -> None:
    cursor.execute("DEALLOCATE ALL")


def test_direct_connections_use_prepared_generic_plans(
    database: Database, acme: Organization
) -> None:
    def plans(cursor: Cursor) -> list[tuple[str, int, int]]:
        cursor.execute(
            "SELECT name, generic_plans, custom_plans FROM pg_prepared_statements"
            " WHERE generic_plans + custom_plans > 0"
        )
        return cursor.fetchall()

    database.run(update_metadata, acme.id, DOCUMENTS)
    assert database.run(plans) == ([] if POOLER else [("update_metadata", 1, 0)])


@pytest.mark.parametrize("update", [update_metadata, dry_run_update])
def test_missing_prepared_statement_is_replaced_by_text(
    update: Callable[..., dict[str, str]], database: Database, acme: Organization
) -> None:
    acme.insert("SN-1")
    database.run(deallocate)
    assert database.run(update, acme.id, DOCUMENTS) == acme.ids()


def test_statements_are_prepared_after_schema_is_applied(
    database: Database, acme: Organization
) -> None:
    acme.insert("SN-1")
    acme.cursor.execute("ALTER TABLE devices RENAME TO other")
    try:
        with pytest.raises(DatabaseError, match="42P01"):
            database.run(update_metadata, acme.id, DOCUMENTS)
    finally:
        acme.cursor.execute("ALTER TABLE other RENAME TO devices")
    assert database.run(update_metadata, acme.id, DOCUMENTS) == acme.ids()
    assert database.run(is_prepared) == (POOLER is None)
