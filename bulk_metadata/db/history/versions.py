"""Queries of the history: the requests of an organization, the versions of a device."""

from datetime import datetime

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.core.json_text import JsonText, Struct
from bulk_metadata.db.transaction import OperatorError


class Request(Struct, rename="camel"):
    """All requests of an API key with the same request ID."""

    request_id: str
    key_id: str | None
    key_name: str | None
    first_at: datetime
    last_at: datetime
    #: The number of devices that the request replaced.
    devices: int
    #: The number of devices that still have its metadata.
    current: int


# One request after the other, from the last change backwards.
SELECT_WRITERS = """
WITH RECURSIVE newest AS (
    SELECT NULL::bigint AS change_id, NULL AS request_id, NULL::uuid AS key_id,
           '{}'::text[] AS found
     UNION ALL
    SELECT next.change_id, next.request_id, next.key_id, found || next.writer
      FROM newest
     CROSS JOIN LATERAL (
           SELECT change_id, request_id, key_id, writer
             FROM history_requests
            CROSS JOIN LATERAL concat(key_id, ' ', request_id) AS writer
            WHERE organization_id = %(organization_id)s
              AND request_id IS NOT NULL
              AND (newest.change_id IS NULL OR change_id < newest.change_id)
              AND (%(since)s::timestamptz IS NULL OR changed_at >= %(since)s)
              AND writer <> ALL (found)
         ORDER BY change_id DESC
            LIMIT 1) AS next
     WHERE cardinality(found) < %(limit)s)
  SELECT request_id, key_id::text
    FROM newest
   WHERE change_id IS NOT NULL
ORDER BY change_id DESC
"""


def select_writers(
    cursor: Cursor, organization_id: str, since: str | None, limit: int
) -> list[tuple[str, str | None]]:
    """Return the request IDs and API key IDs of the requests that replaced metadata,
    newest first."""
    values = {"organization_id": organization_id, "since": since, "limit": limit}
    cursor.execute(SELECT_WRITERS, values)
    return cursor.fetchall()


# changed: the devices of the request.
# present: those that still exist.
# same_state: the last changes of devices that an undo restored, and the earlier changes
# whose results these restored.
# OFFSET 0 keeps the order of the joins.
SELECT_REQUEST = """
WITH RECURSIVE request AS (
    SELECT changed_at, device_ids
      FROM history_requests
     WHERE organization_id = %(organization_id)s
       AND request_id = %(request_id)s
       AND key_id IS NOT DISTINCT FROM %(key_id)s::uuid),
changed AS (
    SELECT DISTINCT unnest(device_ids) AS device_id
      FROM request),
present AS (
    SELECT device_id,
           request_id = %(request_id)s
           AND key_id IS NOT DISTINCT FROM %(key_id)s::uuid AS is_current,
           request_id IS NOT NULL AND key_id IS NULL AS is_restored
      FROM changed
      JOIN devices
        ON devices.organization_id = %(organization_id)s
       AND devices.id = device_id),
same_state AS (
    SELECT device_id, last.*
      FROM present
     CROSS JOIN LATERAL (
           SELECT change_id, restores
             FROM history_versions
            WHERE device_id = present.device_id
              AND organization_id = %(organization_id)s
         ORDER BY change_id DESC
            LIMIT 1) AS last
     WHERE is_restored
       AND NOT is_current
     UNION ALL
    SELECT device_id, previous.*
      FROM same_state
     CROSS JOIN LATERAL (
           SELECT change_id, restores
             FROM history_versions
            WHERE device_id = same_state.device_id
              AND organization_id = %(organization_id)s
              AND change_id < same_state.restores
         ORDER BY change_id DESC
            LIMIT 1) AS previous)
SELECT (SELECT min(changed_at) FROM request),
       (SELECT max(changed_at) FROM request),
       (SELECT count(*) FROM changed),
       (SELECT count(*)
          FROM present
         WHERE is_current)
       + (SELECT count(DISTINCT device_id)
            FROM same_state
           CROSS JOIN LATERAL (
                 SELECT request_id, key_id
                   FROM history_requests
                  WHERE organization_id = %(organization_id)s
                    AND change_id = same_state.change_id
                 OFFSET 0) AS writer
           WHERE request_id = %(request_id)s
             AND key_id IS NOT DISTINCT FROM %(key_id)s::uuid)
"""

SELECT_KEY_NAME = "SELECT name FROM api_keys WHERE id = %s::uuid"


# Separate, because Citus does not join api_keys, a table of the coordinator.
def select_key_name(cursor: Cursor, key_id: str | None) -> str | None:
    """Return the name of an API key; None if it is deleted."""
    cursor.execute(SELECT_KEY_NAME, (key_id,))
    row = cursor.fetchone()
    return str(row[0]) if row else None


def select_request(
    cursor: Cursor, organization_id: str, request_id: str, key_id: str | None
) -> Request:
    """Return the request of an API key, or the undo if ``key_id`` is None."""
    values = {
        "organization_id": organization_id,
        "request_id": request_id,
        "key_id": key_id,
    }
    cursor.execute(SELECT_REQUEST, values)
    [counts] = cursor.fetchall()
    name = select_key_name(cursor, key_id)
    return Request(request_id, key_id, name, *counts)


class Version(Struct, rename="camel"):
    """A change of a device. Without a request ID, another program changed it."""

    changed_at: datetime
    request_id: str | None
    key_id: str | None
    key_name: str | None
    previous_metadata: JsonText


SELECT_DEVICE = """
SELECT id::text, device_metadata::text
  FROM devices
 WHERE organization_id = %s
   AND identifier = %s
"""

SELECT_VERSIONS = """
  SELECT changed_at, request_id, key_id::text, device_metadata::text
    FROM history_versions
    JOIN history_requests USING (organization_id, change_id)
   WHERE organization_id = %s
     AND device_id = %s
ORDER BY change_id DESC
"""


def select_versions(
    cursor: Cursor, organization_id: str, identifier: str
) -> tuple[str, list[Version]]:
    """Return the current metadata of a device as JSON text, and its changes, newest
    first. Raises OperatorError if the device does not exist."""
    cursor.execute(SELECT_DEVICE, (organization_id, identifier.strip()))
    row = cursor.fetchone()
    if row is None:
        raise OperatorError(f'The device "{identifier}" does not exist.')
    device_id, metadata = row
    cursor.execute(SELECT_VERSIONS, (organization_id, device_id))
    rows = cursor.fetchall()
    names = {key_id: select_key_name(cursor, key_id) for _, _, key_id, _ in rows}
    return metadata, [
        Version(at, request_id, key_id, names[key_id], JsonText(previous.encode()))
        for at, request_id, key_id, previous in rows
    ]
