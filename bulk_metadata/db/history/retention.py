"""The retention of the history: partitions of previous versions."""

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.history.settings import CREATE_CURRENT, select_history
from bulk_metadata.db.schema import LOCK_SCHEMA

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
    if not select_history(cursor).is_partitioned:
        return
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

# If the command did not run for a long time, a partition contains expired versions. On
# Citus, where there are no partitions, versions expire in groups.
SET_START = """
   UPDATE history_settings
      SET starts_at = CASE WHEN greatest(starts_at, %(dropped_to)s) < now() - keep * 1.2
                           THEN now() - keep
                           ELSE greatest(starts_at, %(dropped_to)s)
                       END
RETURNING starts_at, starts_at = now() - keep
"""

# This statement reads all versions.
DELETE_VERSIONS = """
DELETE FROM history_versions AS version
      USING history_requests AS request
      WHERE version.organization_id = request.organization_id
        AND version.change_id = request.change_id
        AND changed_at < %(starts_at)s
"""

DELETE_REQUESTS = """
WITH deleted AS (
     DELETE FROM history_requests
           WHERE changed_at < %(starts_at)s
       RETURNING devices)
SELECT coalesce(sum(devices), 0)
  FROM deleted
"""


def delete_expired(cursor: Cursor) -> int:
    """Delete the versions older than the retention time. Return their number."""
    cursor.execute(LOCK_SCHEMA)
    cursor.execute(SELECT_PARTITIONS)
    dropped_to = None
    for name, ends_at, is_expired in sorted(cursor.fetchall()):
        if is_expired:
            cursor.execute(f"DROP TABLE {name}")
            dropped_to = ends_at
        else:
            cursor.execute(f"ALTER TABLE {name} VALIDATE CONSTRAINT last_change")
    cursor.execute(SET_START, {"dropped_to": dropped_to})
    [[starts_at, is_within_partition]] = cursor.fetchall()
    values = {"starts_at": starts_at}
    if is_within_partition:
        cursor.execute(DELETE_VERSIONS, values)
    cursor.execute(DELETE_REQUESTS, values)
    [[versions]] = cursor.fetchall()
    return int(versions)
