"""The target of an undo: requests, and the changes of the devices that they changed."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.core.json_text import encode
from bulk_metadata.db.history.restore_point import Change
from bulk_metadata.db.history.settings import select_history
from bulk_metadata.db.transaction import OperatorError


class Target(NamedTuple):
    """The requests to undo: with a request ID, or with an API key since a time."""

    organization_id: str
    request_id: str | None
    key_id: str | None
    since: str | None

    def values(self) -> dict[str, str | None]:
        """Return the parameters of the statements."""
        return {**self._asdict(), "target": encode(self).decode()}


IS_TARGET = """
      (%(request_id)s::text IS NULL OR request.request_id = %(request_id)s)
  AND (%(key_id)s::uuid IS NULL OR request.key_id = %(key_id)s)
  AND (%(since)s::timestamptz IS NULL OR request.changed_at >= %(since)s)
"""

LOCK_TARGET = "SELECT pg_try_advisory_lock(hashtextextended(%(target)s, 1651862635))"


# PostgreSQL may notice a closed connection after the next command has started.
UNLOCK_TARGET = "SELECT pg_advisory_unlock_all()"


def lock_target(cursor: Cursor, target: Target) -> None:
    """Lock the target until UNLOCK_TARGET is executed or the connection is closed.
    Raises OperatorError if another undo has locked it."""
    cursor.execute(LOCK_TARGET, target.values())
    if cursor.fetchall() == [(False,)]:
        raise OperatorError("Another undo of these requests is running.")


SELECT_TARGET = f"""
SELECT min(change_id), array_agg(DISTINCT key_id::text)
  FROM history_requests AS request
 WHERE organization_id = %(organization_id)s
   AND {IS_TARGET}
"""  # noqa: S608


def select_first_change(cursor: Cursor, target: Target) -> int:
    """Return the first change of the target. Raises OperatorError if the requests are
    unknown or ambiguous."""
    cursor.execute(SELECT_TARGET, target.values())
    [[first_change, key_ids]] = cursor.fetchall()
    if first_change is None:
        raise OperatorError(
            "The history contains no such requests. Versions from before "
            f"{select_history(cursor).starts_at} were not stored, or are deleted."
        )
    if len(key_ids) > 1:
        raise OperatorError(
            f'The request ID "{target.request_id}" was used with several API keys: '
            f"{', '.join(map(str, key_ids))}. Choose one with --key."
        )
    return int(first_change)


# For an INSERT into a temporary table, Citus would join the tables on the coordinator.
CREATE_DEVICES = f"""
CREATE TEMPORARY TABLE undo_devices AS
SELECT row_number() OVER (ORDER BY identifier) AS position, device_id
  FROM (SELECT DISTINCT unnest(device_ids) AS device_id
          FROM history_requests AS request
         WHERE organization_id = %(organization_id)s
           AND {IS_TARGET}) AS changed
  LEFT JOIN devices
    ON devices.organization_id = %(organization_id)s
   AND devices.id = device_id
"""  # noqa: S608

INDEX_DEVICES = "ALTER TABLE undo_devices ADD PRIMARY KEY (position)"


def create_devices(cursor: Cursor, target: Target) -> int:
    """Create the temporary table of the devices that the target changed, with positions
    from 1 on. Return their number."""
    cursor.execute(CREATE_DEVICES, target.values())
    devices = cursor.rowcount
    cursor.execute(INDEX_DEVICES)
    return devices


SELECT_IDS = """
SELECT array_agg(device_id ORDER BY position)
  FROM undo_devices
 WHERE position >= %(start)s AND position < %(stop)s
"""

# Locks in the order of the service, by identifier.
SELECT_DEVICES = """
SELECT id::text, identifier, request_id, key_id::text
  FROM devices
 WHERE organization_id = %(organization_id)s
   AND id = ANY (%(device_ids)s::uuid[])
 ORDER BY identifier
"""
LOCK_DEVICES = f"{SELECT_DEVICES} FOR NO KEY UPDATE"

# OFFSET 0 keeps the order of the joins. Without statistics, the planner chooses a
# slower one.
SELECT_CHANGES = f"""
SELECT device.id::text, key_id::text, version.change_id, restores, request_id,
       {IS_TARGET}
  FROM unnest(%(device_ids)s::uuid[]) WITH ORDINALITY AS device (id, position)
 CROSS JOIN LATERAL (
       SELECT change_id, restores
         FROM history_versions
        WHERE device_id = device.id
          AND organization_id = %(organization_id)s
          AND change_id >= %(first_change)s
       OFFSET 0) AS version
 CROSS JOIN LATERAL (
       SELECT *
         FROM history_requests
        WHERE organization_id = %(organization_id)s
          AND change_id = version.change_id
       OFFSET 0) AS request
 ORDER BY position, version.change_id
"""  # noqa: S608


def select_changes(
    cursor: Cursor,
    target: Target,
    first_change: int,
    positions: range,
    *,
    lock: bool,
) -> Iterator[tuple[str, str | None, list[Change]]]:
    """Yield the ID, the identifier and the changes, oldest first, of the devices at
    these positions. The identifier of a deleted device is None.

    The last change of a device that was temporarily in another organization may be
    unknown.
    """
    cursor.execute(SELECT_IDS, {"start": positions.start, "stop": positions.stop})
    [[device_ids]] = cursor.fetchall()
    values = {
        **target.values(),
        "first_change": first_change,
        "device_ids": device_ids,
    }
    cursor.execute(LOCK_DEVICES if lock else SELECT_DEVICES, values)
    devices = {device_id: device for device_id, *device in cursor.fetchall()}
    cursor.execute(SELECT_CHANGES, values)
    for device_id, group in groupby(cursor.fetchall(), itemgetter(0)):
        rows = [*group]
        changes = [Change(*change) for _, _, *change in rows]
        identifier, *writer = devices.get(device_id, [None])
        last = changes[-1]
        if writer and writer != [last.request_id, rows[-1][1]]:
            changes.append(Change(last.id + 1, None, None, is_target=False))
        yield device_id, identifier, changes
