"""Step 4: the two SQL statements of a request, each above its function."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import psycopg2
from psycopg2.errors import StatementTooComplex
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json, execute_values

from bulk_metadata.api.request import invalid_json
from bulk_metadata.core.json_text import JsonText

SELECT_CALLER = """
SELECT organization_id, id
  FROM api_keys
 WHERE key_hash = %s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > now())
"""


class Caller(NamedTuple):
    """Who calls: the organization it acts for, and the key it has."""

    organization_id: str
    key_id: str


def select_caller(cursor: Cursor, key_hash: bytes) -> Caller | None:
    """Return whose key has this digest; None if none that works has."""
    cursor.execute(SELECT_CALLER, (key_hash,))
    row = cursor.fetchone()
    return Caller(*row) if row else None


# One statement: all matching devices are updated, or none. It sorts them as the index
# is (code points, COLLATE "C"), so that all callers lock devices in one order and
# cannot deadlock, and none before all of the text is parsed. now() is when it started:
# after a wait for a lock that may be before the last update, and time never goes back.
# (clock_timestamp() is later, but VOLATILE, which Citus refuses in an UPDATE.)
UPDATE_METADATA = """
   UPDATE devices
      SET device_metadata = sent.metadata,
          updated_at = greatest(now(), devices.updated_at)
     FROM (SELECT member.key COLLATE "C" AS identifier, member.value AS metadata
             FROM (VALUES %%s) AS object (json),
                  jsonb_each(object.json::jsonb) AS member
         ORDER BY identifier) AS sent
    WHERE devices.organization_id = %s
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
"""

# A row of VALUES is one JSON object of so many devices. With a row for each device
# 1,000 devices take 2 ms more, with one row for all of them 0.5 ms.
DEVICES_PER_ROW = 50


def update_metadata(
    cursor: Cursor, organization_id: str, documents: Mapping[str, JsonText]
) -> dict[str, str]:
    """Replace the metadata of the organization's devices that ``documents`` names.

    ``documents`` maps identifiers to JSON text. Returns the ids of the devices found,
    by identifier.

    Raises ApiError 400 for a document nested deeper than PostgreSQL's
    ``max_stack_depth`` allows, if Python's parser allowed it.
    """
    # PostgreSQL could not hold a device of another identifier at all.
    members = [
        (identifier, document)
        for identifier, document in documents.items()
        if identifier and "\0" not in identifier
    ]
    if not members:
        return {}
    # Written as text when it is their turn, so that many are not held once more.
    rows = [
        (Json(dict(members[start : start + DEVICES_PER_ROW]), dumps=_write_json),)
        for start in range(0, len(members), DEVICES_PER_ROW)
    ]
    statement = cursor.mogrify(UPDATE_METADATA, (organization_id,))
    try:
        # One page, so one statement, whatever execute_values' default is.
        found = execute_values(cursor, statement, rows, page_size=len(rows), fetch=True)
    except StatementTooComplex:
        raise invalid_json() from None
    return dict(found)


# A dry run keeps its devices locked until its ROLLBACK comes. From a machine that is
# lost before that none ever comes: then PostgreSQL ends the session by itself, in time
# for calls that wait for the same devices, which have 4 s for that (LOCK_TIMEOUT).
BEGIN_DRY_RUN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '3s'"


def dry_run_update(
    cursor: Cursor, organization_id: str, documents: Mapping[str, JsonText]
) -> dict[str, str]:
    """Do what ``update_metadata`` does, return or raise the same, and undo it.

    The connection must be autocommitting, and however this ends it is left without a
    transaction, or closed.
    """
    try:
        cursor.execute(BEGIN_DRY_RUN)
        return update_metadata(cursor, organization_id, documents)
    finally:
        _roll_back(cursor)


def _roll_back(cursor: Cursor) -> None:
    """Undo the transaction. This raises nothing: what went wrong before it counts."""
    try:
        cursor.execute("ROLLBACK")
    except psycopg2.Error:
        # PostgreSQL does it when it finds the connection closed.
        cursor.connection.close()


def _write_json(documents: dict[str, JsonText]) -> str:
    """Return the JSON object of ``documents``, each as it stands."""
    return msgspec.json.encode(documents).decode()
