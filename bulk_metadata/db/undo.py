"""Undo: the devices that requests changed, and the versions that are restored."""

import secrets
import time
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from psycopg2.errors import DeadlockDetected, LockNotAvailable
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.core.json_text import Struct, encode
from bulk_metadata.core.restore_point import Change, find_restore_point
from bulk_metadata.db.history import select_history
from bulk_metadata.db.transaction import OperatorError

# Devices in a step, which is one transaction: as many as in a request.
STEP = 1000

# A step waits for a locked device for 0.5 s (the lock_timeout of the connection), then
# releases its own locks for that time, so that requests do not exceed LOCK_TIMEOUT.
LOCK_SECONDS = 0.5
LOCK_ATTEMPTS = 20


class Target(NamedTuple):
    """The requests to undo: with a request ID, or with an API key since a time."""

    organization_id: str
    request_id: str | None
    key_id: str | None
    since: str | None


IS_TARGET = """
      (%(request_id)s::text IS NULL OR request.request_id = %(request_id)s)
  AND (%(key_id)s::uuid IS NULL OR request.key_id = %(key_id)s)
  AND (%(since)s::timestamptz IS NULL OR request.changed_at >= %(since)s)
"""

LOCK_TARGET = "SELECT pg_try_advisory_lock(hashtextextended(%(target)s, 1651862635))"

SELECT_TARGET = f"""
SELECT min(change_id), array_agg(DISTINCT key_id::text)
  FROM history_requests AS request
 WHERE organization_id = %(organization_id)s
   AND {IS_TARGET}
"""  # noqa: S608

CREATE_DEVICES = f"""
CREATE TEMPORARY TABLE undo_devices (
    position  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device_id uuid
);
INSERT INTO undo_devices (device_id)
  SELECT device_id
    FROM (SELECT DISTINCT device_id
            FROM history_requests AS request
           CROSS JOIN LATERAL (
                 SELECT device_id
                   FROM history_versions
                  WHERE change_id = request.change_id
                    AND organization_id = %(organization_id)s
                 OFFSET 0) AS version
           WHERE organization_id = %(organization_id)s
             AND {IS_TARGET}) AS changed
    LEFT JOIN devices
      ON devices.organization_id = %(organization_id)s
     AND devices.id = device_id
ORDER BY identifier
"""  # noqa: S608

SELECT_UNFINISHED = """
SELECT request_id
  FROM history_undos
 WHERE organization_id = %(organization_id)s
   AND target = %(target)s
   AND finished_at IS NULL
"""

# Locks in the order of the service, by identifier.
SELECT_DEVICES = """
SELECT devices.id::text, identifier
  FROM undo_devices
  JOIN devices
    ON devices.organization_id = %(organization_id)s
   AND devices.id = device_id
 WHERE position BETWEEN %(position)s AND %(position)s + %(step)s - 1
 ORDER BY identifier
"""
LOCK_DEVICES = f"{SELECT_DEVICES} FOR NO KEY UPDATE OF devices"

# OFFSET 0 keeps the order of the joins. Without statistics, the planner chooses a
# slower one.
SELECT_CHANGES = f"""
SELECT undo_devices.device_id::text, version.change_id, restores, request_id,
       {IS_TARGET}
  FROM undo_devices
 CROSS JOIN LATERAL (
       SELECT change_id, restores
         FROM history_versions
        WHERE device_id = undo_devices.device_id
          AND organization_id = %(organization_id)s
          AND change_id >= %(first_change)s
       OFFSET 0) AS version
 CROSS JOIN LATERAL (
       SELECT *
         FROM history_requests
        WHERE organization_id = %(organization_id)s
          AND change_id = version.change_id
       OFFSET 0) AS request
 WHERE position BETWEEN %(position)s AND %(position)s + %(step)s - 1
 ORDER BY position, version.change_id
"""  # noqa: S608

RESTORE = """
INSERT INTO history_undos (organization_id, request_id, target)
     VALUES (%(organization_id)s, %(undo_id)s, %(target)s)
ON CONFLICT DO NOTHING;
SELECT set_config('bulk_metadata.restores', %(restores)s, true);
   UPDATE devices
      SET device_metadata = version.device_metadata,
          updated_at = greatest(now(), devices.updated_at),
          request_id = %(undo_id)s,
          key_id = NULL
     FROM unnest(%(device_ids)s::uuid[], %(change_ids)s::bigint[])
          AS point (device_id, change_id)
     JOIN history_versions AS version
       ON version.device_id = point.device_id
      AND version.change_id = point.change_id
      AND version.organization_id = %(organization_id)s
    WHERE devices.organization_id = %(organization_id)s
      AND devices.id = point.device_id
"""

FINISH = """
UPDATE history_undos
   SET finished_at = now()
 WHERE organization_id = %(organization_id)s
   AND request_id = %(undo_id)s
"""


class Skipped(Struct, rename="camel"):
    """A device that is not restored. ``request_id`` is the later writer."""

    identifier: str
    reason: str
    request_id: str | None = None


class Step(NamedTuple):
    """The result for up to 1,000 devices."""

    restored: int
    skipped: list[Skipped]


class Undo:
    """An undo. A temporary table contains its devices, so it needs one connection."""

    def __init__(self, cursor: Cursor, target: Target, *, force: bool) -> None:
        """Find the devices. Raises OperatorError if the requests are unknown or
        ambiguous, or if another undo of them is running."""
        self._cursor = cursor
        self._force = force
        self._values = {**target._asdict(), "target": encode(target).decode()}
        cursor.execute(LOCK_TARGET, self._values)
        if cursor.fetchall() == [(False,)]:
            raise OperatorError("Another undo of these requests is running.")
        cursor.execute(SELECT_TARGET, self._values)
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
        cursor.execute(SELECT_UNFINISHED, self._values)
        row = cursor.fetchone()
        self.is_resumed = row is not None
        self.request_id = row[0] if row else f"undo-{secrets.token_hex(8)}"
        cursor.execute(CREATE_DEVICES, self._values)
        self.devices = cursor.rowcount
        self._values |= {
            "first_change": first_change,
            "undo_id": self.request_id,
            "step": STEP,
        }
        cursor.connection.commit()

    def step(self, position: int, *, dry_run: bool = False) -> Step:
        """Restore the devices from this position on, in one transaction. With
        ``dry_run``, only count them. Raises OperatorError if a device stays locked."""
        for _ in range(LOCK_ATTEMPTS):
            try:
                step = self._plan(position, dry_run=dry_run)
            except (LockNotAvailable, DeadlockDetected):
                self._cursor.connection.rollback()
                time.sleep(LOCK_SECONDS)
            else:
                self._cursor.connection.commit()
                return step
        raise OperatorError(
            "Another session holds locks on devices. Repeat the command when the locks "
            "are released."
        )

    def finish(self) -> None:
        """Mark the undo as complete, so that it is not resumed."""
        self._cursor.execute(FINISH, self._values)
        self._cursor.connection.commit()

    def _plan(self, position: int, *, dry_run: bool) -> Step:
        values = {**self._values, "position": position}
        self._cursor.execute(SELECT_DEVICES if dry_run else LOCK_DEVICES, values)
        identifiers = dict(self._cursor.fetchall())
        self._cursor.execute(SELECT_CHANGES, values)
        changes: dict[str, int] = {}
        skipped = []
        for device_id, rows in groupby(self._cursor.fetchall(), itemgetter(0)):
            history = [Change(*row) for _, *row in rows]
            point = find_restore_point(history, force=self._force)
            if point.change is None:
                continue  # it is restored already
            if device_id not in identifiers:
                skipped.append(Skipped(f"ID {device_id}", "the device was deleted"))
            elif point.changed_by and not self._force:
                skipped.append(_changed(identifiers[device_id], point.changed_by))
            else:
                changes[device_id] = point.change.id
        if changes and not dry_run:
            self._restore(changes)
        return Step(len(changes), skipped)

    def _restore(self, changes: dict[str, int]) -> None:
        restores = {
            "restores": encode(changes).decode(),
            "device_ids": list(changes),
            "change_ids": list(changes.values()),
        }
        self._cursor.execute(RESTORE, self._values | restores)


def _changed(identifier: str, change: Change) -> Skipped:
    request_id = change.request_id
    writer = "another program" if request_id is None else f"request {request_id}"
    return Skipped(identifier, f"{writer} changed it later", request_id)
