"""The history of device metadata: enabling it, and disabling it."""

from pathlib import Path
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.schema import LOCK_SCHEMA
from bulk_metadata.db.transaction import OperatorError

HISTORY_FILE = Path(__file__).with_name("history.sql")

# The partition for new rows. It has no statistics, like devices: query plans must not
# depend on the age of statistics.
CREATE_CURRENT = """
CREATE TABLE history_versions_current () INHERITS (history_versions);
REVOKE ALL ON history_versions_current FROM PUBLIC, bulk_metadata_service;
CREATE INDEX ON history_versions_current USING hash (device_id);
ALTER TABLE history_versions_current
      ALTER COLUMN organization_id SET STATISTICS 0,
      ALTER COLUMN device_id SET STATISTICS 0,
      ALTER COLUMN change_id SET STATISTICS 0
"""

SELECT_STATE = """
SELECT to_regclass('history_settings') IS NOT NULL,
       EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')
"""

CREATE_SETTINGS = "INSERT INTO history_settings (keep) VALUES ('90 days')"
UPDATE_SETTINGS = "UPDATE history_settings SET keep = %s"


def enable_history(cursor: Cursor, keep: str | None = None) -> bool:
    """Enable the history, and set its retention time. Return whether it is new."""
    cursor.execute(LOCK_SCHEMA)
    cursor.execute(SELECT_STATE)
    [[is_enabled, is_citus]] = cursor.fetchall()
    if is_citus:
        raise OperatorError("The history is not supported on Citus yet.")
    if not is_enabled:
        cursor.execute(HISTORY_FILE.read_text() + CREATE_CURRENT)
        cursor.execute(CREATE_SETTINGS)
    if keep is not None:
        cursor.execute(UPDATE_SETTINGS, (keep,))
    return not is_enabled


class History(NamedTuple):
    """The retention time and the start of the history."""

    keep: str
    starts_at: str


SELECT_HISTORY = """
SELECT keep::text, to_char(starts_at, 'YYYY-MM-DD HH24:MI:SS TZ')
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
       (SELECT sum(pg_total_relation_size(oid))::bigint
          FROM pg_class
         WHERE oid = 'history_requests'::regclass
            OR oid IN (SELECT inhrelid
                         FROM pg_inherits
                        WHERE inhparent = 'history_versions'::regclass))
"""


def select_size(cursor: Cursor) -> tuple[int, int]:
    """Return the number of versions, and their size in bytes. Raises OperatorError if
    the history is not enabled."""
    select_history(cursor)
    cursor.execute(SELECT_SIZE)
    [[versions, size]] = cursor.fetchall()
    return versions, size


DROP_HISTORY = """
DROP TRIGGER history_mark_request ON devices;
DROP TRIGGER history_clear_writer ON devices;
DROP TRIGGER history_record ON devices;
DROP FUNCTION history_mark_request, history_clear_writer, history_record;
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
