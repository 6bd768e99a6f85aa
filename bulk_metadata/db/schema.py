"""The schema: applies schema.sql online."""

from pathlib import Path
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.transaction import OperatorError

SCHEMA_FILE = Path(__file__).parents[2] / "schema.sql"

# Requests queue behind a statement that waits for a table lock. 2 s is less than
# LOCK_TIMEOUT, so these requests succeed, and more than deadlock_timeout (1 s), after
# which autovacuum releases its lock.
#
# The advisory lock serializes concurrent runs: otherwise two that create the same table
# conflict. Its number is arbitrary.
#
# Citus needs its settings to change a distributed table and to create a trigger. Other
# servers ignore them. DO, because Citus sends the text of the SET to the worker nodes.
LOCK_SCHEMA = """
SET LOCAL citus.multi_shard_modify_mode = 'sequential';
SET LOCAL citus.enable_unsafe_triggers = on;
SET LOCAL citus.propagate_set_commands = 'local';
DO $$ BEGIN SET LOCAL lock_timeout = '2s'; END $$;
SELECT pg_advisory_xact_lock(1651862635);
"""


class Schema(NamedTuple):
    """A database with the current schema."""

    database: str
    #: The version of the PostgreSQL server.
    server: str
    warnings: list[str]


def apply_schema(cursor: Cursor) -> Schema:
    """Apply schema.sql atomically.

    This sets the lock timeout of the current transaction. Raises OperatorError if the
    encoding of the database is not UTF8, and psycopg2.errors.LockNotAvailable if a lock
    times out.
    """
    cursor.execute("SELECT current_setting('server_encoding')")
    [[encoding]] = cursor.fetchall()
    if encoding != "UTF8":
        raise OperatorError(
            f"The encoding of the database is {encoding}, which cannot store all "
            "identifiers. Create a database with ENCODING 'UTF8'."
        )
    # One message is one transaction, even on an autocommitting connection.
    cursor.execute(LOCK_SCHEMA + SCHEMA_FILE.read_text())
    notices = [notice.splitlines()[0] for notice in cursor.connection.notices]
    cursor.execute("SELECT current_database(), current_setting('server_version')")
    [[database, server]] = cursor.fetchall()
    warnings = [notice for notice in notices if notice.startswith("WARNING:")]
    return Schema(database, server, warnings)
