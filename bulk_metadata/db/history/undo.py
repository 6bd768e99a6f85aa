"""The steps of an undo: which devices to skip, and the statement that restores."""

import secrets
import time
from typing import NamedTuple

from psycopg2.errors import DeadlockDetected, LockNotAvailable
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.core.json_text import Struct, encode
from bulk_metadata.db.history.restore_point import Change, find_restore_point
from bulk_metadata.db.history.target import (
    UNLOCK_TARGET,
    Target,
    create_devices,
    lock_target,
    select_changes,
    select_first_change,
)
from bulk_metadata.db.transaction import (
    SET_INDEX_PLANS,
    OperatorError,
    raise_interrupt,
)

# Devices in a step, which is one transaction: the maximum of a request.
STEP = 1000

# A step waits for a locked device for 0.5 s (the lock_timeout of the connection), then
# releases its own locks for that time, so that requests do not exceed LOCK_TIMEOUT.
LOCK_SECONDS = 0.5
LOCK_ATTEMPTS = 20

SELECT_UNFINISHED = """
SELECT request_id
  FROM history_undos
 WHERE organization_id = %(organization_id)s
   AND target = %(target)s
   AND finished_at IS NULL
"""

# For the trigger of the history, on Citus also on the worker nodes.
SET_RESTORES = "SET LOCAL bulk_metadata.restores = %(restores)s"

RESTORE = """
INSERT INTO history_undos (organization_id, request_id, target)
     VALUES (%(organization_id)s, %(undo_id)s, %(target)s)
ON CONFLICT DO NOTHING;
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

# The reason for a device that --force does not restore either.
MISSING = "the device is no longer in the organization"


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
    """An undo on one connection, which has a temporary table of the devices."""

    def __init__(self, cursor: Cursor, target: Target, *, force: bool) -> None:
        """Find the devices. Raises OperatorError if the requests are unknown or
        ambiguous, or if another undo of them is running."""
        lock_target(cursor, target)
        self._cursor = cursor
        self._force = force
        self._target = target
        self._first_change = select_first_change(cursor, target)
        self._values = target.values()
        cursor.execute(SELECT_UNFINISHED, self._values)
        row = cursor.fetchone()
        self.is_resumed = row is not None
        self.request_id = row[0] if row else f"undo-{secrets.token_hex(8)}"
        self._values["undo_id"] = self.request_id
        self.devices = create_devices(cursor, target)
        cursor.connection.commit()

    def step(self, position: int, *, dry_run: bool = False) -> Step:
        """Restore the devices from this position on, in one transaction. With
        ``dry_run``, only count them. Raises OperatorError if a device stays locked."""
        raise_interrupt()
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

    def release(self) -> None:
        """Let another undo of the same requests start."""
        self._cursor.execute(UNLOCK_TARGET)

    def _plan(self, position: int, *, dry_run: bool) -> Step:
        self._cursor.execute(SET_INDEX_PLANS)
        restored: dict[str, int] = {}
        skipped = []
        rows = select_changes(
            self._cursor,
            self._target,
            self._first_change,
            range(position, position + STEP),
            lock=not dry_run,
        )
        for device_id, identifier, changes in rows:
            change, changed_by = find_restore_point(changes, force=self._force)
            if change is None:
                continue  # It is restored already.
            if identifier is None:
                skipped.append(Skipped(f"ID {device_id}", MISSING))
            elif changed_by and not self._force:
                skipped.append(_changed(identifier, changed_by))
            else:
                restored[device_id] = change.id
        if dry_run or not restored:
            return Step(len(restored), skipped)
        return Step(self._restore(restored), skipped)

    def _restore(self, changes: dict[str, int]) -> int:
        values = {
            "restores": encode(changes).decode(),
            "device_ids": list(changes),
            "change_ids": list(changes.values()),
        }
        self._cursor.execute(SET_RESTORES, values)
        self._cursor.execute(RESTORE, {**self._values, **values})
        return self._cursor.rowcount


def _changed(identifier: str, change: Change) -> Skipped:
    request_id = change.request_id
    writer = "another program" if request_id is None else f"request {request_id}"
    return Skipped(identifier, f"{writer} changed it later", request_id)
