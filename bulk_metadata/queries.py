"""Step 4: the two SQL statements of a request, each above its function."""

from psycopg2.errors import StatementTooComplex
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from bulk_metadata.body import invalid_json

SELECT_ORGANIZATION_ID = """
SELECT organization_id
  FROM api_keys
 WHERE key_hash = %s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > now())
"""


def select_organization_id(cursor: Cursor, key_hash: bytes) -> str | None:
    """Return the organization of the key with this digest; None if none works."""
    cursor.execute(SELECT_ORGANIZATION_ID, (key_hash,))
    row = cursor.fetchone()
    return row[0] if row else None


# One statement: all matching devices are updated, or none. The text becomes jsonb once,
# in SET; a cast in each row of VALUES costs half as much again. now() would be when the
# statement started: after a wait for a lock, a time before the last update's.
UPDATE_METADATA = """
   UPDATE devices
      SET device_metadata = sent.metadata::jsonb,
          updated_at = clock_timestamp()
     FROM (VALUES %%s) AS sent (identifier, metadata)
    WHERE devices.organization_id = %s
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
"""


def update_metadata(
    cursor: Cursor, organization_id: str, documents: dict[str, str]
) -> dict[str, str]:
    """Replace the metadata of the organization's devices that ``documents`` names.

    ``documents`` maps identifiers to JSON text. Returns the ids of the devices found,
    by identifier. Rows are sorted as the index is (code points, COLLATE "C"), so that
    all callers lock devices in one order and cannot deadlock.

    Raises ApiError 400 for a document nested deeper than PostgreSQL's
    ``max_stack_depth`` allows, if Python's parser allowed it.
    """
    rows = sorted(row for row in documents.items() if _can_exist(row[0]))
    if not rows:
        return {}
    statement = cursor.mogrify(UPDATE_METADATA, (organization_id,))
    try:
        # With the default page_size of 100 it would be ten statements.
        found = execute_values(cursor, statement, rows, page_size=len(rows), fetch=True)
    except StatementTooComplex:
        raise invalid_json() from None
    return dict(found)


def _can_exist(identifier: str) -> bool:
    """Tell whether PostgreSQL could hold a device of this identifier at all."""
    return identifier != "" and "\0" not in identifier
