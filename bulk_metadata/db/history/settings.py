"""The history of device metadata: enabling it, and disabling it."""

from pathlib import Path
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.schema import LOCK_SCHEMA
from bulk_metadata.db.transaction import OperatorError

HISTORY_FILE = Path(__file__).with_name("history.sql")

# No statistics, like devices: query plans must not depend on the age of statistics. The
# empty parent table needs the index, too: its sequential scan would determine the plan.
CREATE_INDEX = """
CREATE INDEX ON {0} USING hash (device_id);
ALTER TABLE {0}
      ALTER COLUMN organization_id SET STATISTICS 0,
      ALTER COLUMN device_id SET STATISTICS 0,
      ALTER COLUMN change_id SET STATISTICS 0;
"""

# The partition for new rows.
CREATE_CURRENT = f"""
CREATE TABLE history_versions_current () INHERITS (history_versions);
REVOKE ALL ON history_versions_current FROM PUBLIC, bulk_metadata_service;
{CREATE_INDEX.format("history_versions_current")}
"""

SELECT_DISTRIBUTED = """
SELECT FROM citus_tables
 WHERE table_name = 'devices'::regclass
   AND citus_table_type = 'distributed'
"""

# Citus does not support the partitions. The history is on the node of its devices.
DISTRIBUTE = """
SELECT create_distributed_table(name, 'organization_id', colocate_with => 'devices')
  FROM unnest('{history_versions,history_requests,history_undos}'::text[]) AS name
"""

SELECT_STATE = """
SELECT to_regclass('history_settings') IS NOT NULL,
       to_regclass('citus_tables') IS NOT NULL
"""

CREATE_SETTINGS = "INSERT INTO history_settings (keep) VALUES ('90 days')"
UPDATE_SETTINGS = "UPDATE history_settings SET keep = %s"


def enable_history(cursor: Cursor, keep: str | None = None) -> bool:
    """Enable the history, and set its retention time. Return whether it is new."""
    cursor.execute(LOCK_SCHEMA)
    cursor.execute(SELECT_STATE)
    [[is_enabled, is_citus]] = cursor.fetchall()
    if not is_enabled:
        index = CREATE_INDEX.format("history_versions")
        cursor.execute(HISTORY_FILE.read_text() + index)
        if is_citus:
            distribute_history(cursor)
        else:
            cursor.execute(CREATE_CURRENT)
        cursor.execute(CREATE_SETTINGS)
    if keep is not None:
        cursor.execute(UPDATE_SETTINGS, (keep,))
    return not is_enabled


def distribute_history(cursor: Cursor) -> None:
    """Distribute the tables of the history over the nodes of Citus. Raises
    OperatorError if the devices are not distributed."""
    cursor.execute(SELECT_DISTRIBUTED)
    if cursor.fetchone() is None:
        raise OperatorError(
            "The database has the extension citus, but the tables are not distributed. "
            "Run deploy/citus.sql first."
        )
    cursor.execute(DISTRIBUTE)


class History(NamedTuple):
    """The retention time and the start of the history."""

    keep: str
    starts_at: str
    #: False on Citus.
    is_partitioned: bool


SELECT_HISTORY = """
SELECT keep::text, to_char(starts_at, 'YYYY-MM-DD HH24:MI:SS TZ'),
       to_regclass('history_versions_current') IS NOT NULL
  FROM history_settings
"""


def select_history(cursor: Cursor) -> History:
    """Return the history. Raises OperatorError if it is not enabled."""
    cursor.execute(SELECT_STATE)
    [[is_enabled, _]] = cursor.fetchall()
    if not is_enabled:
        raise OperatorError(
            "The history is not enabled, so previous metadata is not stored. Enable it "
            "for future changes with: flask enable-history"
        )
    cursor.execute(SELECT_HISTORY)
    [row] = cursor.fetchall()
    return History(*row)


SELECT_SIZE = """
SELECT (SELECT coalesce(sum(devices), 0) FROM history_requests),
       (SELECT sum({}_total_relation_size(oid))::bigint
          FROM pg_class
         WHERE oid IN ('history_requests'::regclass, 'history_versions'::regclass)
            OR oid IN (SELECT inhrelid
                         FROM pg_inherits
                        WHERE inhparent = 'history_versions'::regclass))
"""


def select_size(cursor: Cursor) -> tuple[int, int]:
    """Return the number of versions, and their size in bytes. Raises OperatorError if
    the history is not enabled."""
    is_partitioned = select_history(cursor).is_partitioned
    cursor.execute(SELECT_SIZE.format("pg" if is_partitioned else "citus"))
    [[versions, size]] = cursor.fetchall()
    return versions, size


DROP_HISTORY = """
DROP FUNCTION history_mark_request, history_clear_writer, history_record CASCADE;
DROP TABLE history_settings, history_requests, history_undos;
DROP TABLE history_versions CASCADE;
DROP SEQUENCE history_change
"""


def disable_history(cursor: Cursor) -> int:
    """Delete the history. Return the number of its versions. Raises OperatorError if
    the history is not enabled."""
    cursor.execute(LOCK_SCHEMA)
    versions, _ = select_size(cursor)
    cursor.execute(DROP_HISTORY)
    return versions
