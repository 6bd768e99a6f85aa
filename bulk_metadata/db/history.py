"""The history of device metadata: enabling it, disabling it, and its retention."""

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
CREATE INDEX ON history_versions_current (change_id);
CREATE INDEX ON history_versions_current (device_id, change_id);
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
    """The size and the retention time of the history."""

    versions: int
    bytes: int
    keep: str
    starts_at: str


SELECT_HISTORY = """
SELECT (SELECT coalesce(sum(devices), 0) FROM history_requests),
       (SELECT sum(pg_total_relation_size(oid))::bigint
          FROM pg_class
         WHERE oid = 'history_requests'::regclass
            OR oid IN (SELECT inhrelid
                         FROM pg_inherits
                        WHERE inhparent = 'history_versions'::regclass)),
       keep::text,
       to_char(starts_at, 'YYYY-MM-DD HH24:MI:SS TZ')
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


DROP_HISTORY = """
DROP TRIGGER history_mark_request ON devices;
DROP TRIGGER history_clear_writer ON devices;
DROP TRIGGER history_record ON devices;
DROP FUNCTION history_mark_request, history_clear_writer, history_record;
DROP TABLE history_settings, history_requests, history_undos;
DROP TABLE history_versions CASCADE;
DROP SEQUENCE history_change
"""


def disable_history(cursor: Cursor) -> History:
    """Delete the history and return its size. Raises OperatorError if it is not
    enabled."""
    cursor.execute(LOCK_SCHEMA)
    history = select_history(cursor)
    cursor.execute(DROP_HISTORY)
    return history


# A partition spans a tenth of the retention time. Dropping a partition leaves no
# dead rows, and the retention is exact to one partition.
START_PARTITION = """
UPDATE history_settings
   SET partition_started_at = clock_timestamp()
 WHERE partition_started_at < now() - keep / 10
RETURNING (extract(epoch FROM partition_started_at) * 1000)::bigint,
          (SELECT coalesce(max(change_id), 0) FROM history_versions_current)
"""

# The name contains the time at which the partition ends, in ms. The constraint
# excludes the partition from queries of later changes.
END_PARTITION = """
ALTER TABLE history_versions_current
  ADD CONSTRAINT last_change CHECK (change_id <= %(last_change)s) NOT VALID;
ALTER TABLE history_versions_current RENAME TO history_versions_%(end)s;
"""


def start_partition(cursor: Cursor) -> None:
    """Start a new partition if the current one spans its part of the retention time."""
    cursor.execute(LOCK_SCHEMA)
    select_history(cursor)
    cursor.execute("LOCK TABLE history_versions_current")
    cursor.execute(START_PARTITION)
    for end, last_change in cursor.fetchall():
        values = {"end": end, "last_change": last_change}
        cursor.execute(END_PARTITION + CREATE_CURRENT, values)


SELECT_PARTITIONS = """
SELECT relname, to_timestamp(right(relname, 13)::bigint / 1000.0) AS ends_at,
       to_timestamp(right(relname, 13)::bigint / 1000.0) < now() - keep AS is_expired
  FROM history_settings, pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
 WHERE inhparent = 'history_versions'::regclass
   AND relname <> 'history_versions_current'
"""

# If the command did not run for a long time, a partition contains expired versions.
SET_START = """
   UPDATE history_settings
      SET starts_at = CASE WHEN greatest(starts_at, %(dropped_to)s) < now() - keep * 1.2
                           THEN now() - keep
                           ELSE greatest(starts_at, %(dropped_to)s)
                       END
RETURNING starts_at
"""

DELETE_VERSIONS = """
DELETE FROM history_versions
      WHERE change_id <= (SELECT max(change_id)
                            FROM history_requests
                           WHERE changed_at < %(starts_at)s);
WITH deleted AS (
     DELETE FROM history_requests
           WHERE changed_at < %(starts_at)s
       RETURNING devices)
SELECT coalesce(sum(devices), 0)
  FROM deleted
"""


def delete_expired(cursor: Cursor) -> int:
    """Delete the versions older than the retention time. Return their number."""
    cursor.execute(SELECT_PARTITIONS)
    dropped_to = None
    for name, ends_at, is_expired in sorted(cursor.fetchall()):
        if is_expired:
            cursor.execute(f"DROP TABLE {name}")
            dropped_to = ends_at
        else:
            cursor.execute(f"ALTER TABLE {name} VALIDATE CONSTRAINT last_change")
    cursor.execute(SET_START, {"dropped_to": dropped_to})
    [[starts_at]] = cursor.fetchall()
    cursor.execute(DELETE_VERSIONS, {"starts_at": starts_at})
    [[versions]] = cursor.fetchall()
    return int(versions)
