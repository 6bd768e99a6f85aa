"""Step 4: the statements of a request and of /readyz, each above its function."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import psycopg2
from psycopg2.errors import InvalidArgumentForLogarithm, StatementTooComplex
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json

from bulk_metadata.core.errors import INVALID_API_KEY, INVALID_JSON, ApiError
from bulk_metadata.core.json_text import JsonText, encode
from bulk_metadata.db.prepared import Call, Statement, execute
from bulk_metadata.db.server_clock import ServerClock

# A condition on api_keys. S608 below: it is a constant.
IS_VALID = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())"

SELECT_API_KEY = Statement(
    "select_api_key",
    f"""
SELECT organization_id, id, extract(epoch FROM clock_timestamp())::float8
  FROM api_keys
 WHERE key_hash = %s
   AND {IS_VALID}
""",  # noqa: S608
    "bytea",
)


class ApiKey(NamedTuple):
    """A valid API key: its organization, its ID, and the time when it was valid."""

    organization_id: str
    id: str
    clock: ServerClock


def select_api_key(cursor: Cursor, key_hash: bytes) -> ApiKey | None:
    """Return the API key with this digest; None if it is unknown, expired or
    revoked."""
    execute(cursor, Call(SELECT_API_KEY, (key_hash,)))
    row = cursor.fetchone()
    return ApiKey(row[0], row[1], ServerClock(row[2])) if row else None


# Precedes an UPDATE in the same message, and prevents it: with SQLSTATE 22012 after the
# deadline, and with 2201E (the logarithm of 0) if the API key is no longer valid. It
# also limits the duration of the UPDATE, because a pooler drops the settings of the
# connection.
GUARD_UPDATE = Statement(
    "guard_update",
    f"""
SELECT 1 / (clock_timestamp() < to_timestamp(%s))::int,
       ln(count(*)),
       set_config('statement_timeout', %s, true)
  FROM api_keys
 WHERE id = %s
   AND organization_id = %s
   AND {IS_VALID}
""",  # noqa: S608
    *("float8", "text", "uuid", "uuid"),
)


def guard_update(api_key: ApiKey, start_within: int, statement_timeout: int) -> Call:
    """Return the guard of an update that must start within ``start_within`` seconds,
    and take up to ``statement_timeout`` seconds."""
    deadline = api_key.clock.deadline(start_within)
    timeout = f"{statement_timeout}s"
    parameters = (deadline, timeout, api_key.id, api_key.organization_id)
    return Call(GUARD_UPDATE, parameters)


# One statement updates all matching devices, or none. It sorts them in the order of the
# index (code points, COLLATE "C"), so that all clients lock devices in one order and
# cannot deadlock. The sort also parses the whole text before the first lock. now() is
# the start of the statement. After a wait for a lock it may be before the last update,
# and updated_at must not decrease. clock_timestamp() is later, but VOLATILE, which
# Citus rejects in an UPDATE.
UPDATE_METADATA = Statement(
    "update_metadata",
    """
   UPDATE devices
      SET device_metadata = sent.metadata,
          updated_at = greatest(now(), devices.updated_at),
          request_id = %s,
          key_id = %s
     FROM (SELECT member.key COLLATE "C" AS identifier, member.value AS metadata
             FROM unnest(%s::text[]) AS object (json),
                  jsonb_each(object.json::jsonb) AS member
         ORDER BY identifier) AS sent
    WHERE devices.organization_id = %s
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
""",
    *("text", "uuid", "text[]", "uuid"),
)

# Devices in a JSON object of the array. With one device in each, 1,000 devices take
# 2 ms more, with all of them in one object 0.5 ms.
DEVICES_PER_OBJECT = 50


def update_metadata(
    cursor: Cursor,
    organization_id: str,
    documents: Mapping[str, JsonText],
    request_id: str = "",
    key_id: str | None = None,
    guard: Callable[[], Iterable[Call]] = tuple,
) -> dict[str, str]:
    """Replace the metadata of the devices in ``documents``, JSON text by identifier.

    Stores ``request_id`` and ``key_id`` as the last writer of each device. ``guard``
    returns statements that precede this one in the same transaction. Returns the IDs of
    the devices that exist in the organization, by identifier. Raises ApiError 400 if a
    document exceeds the nesting depth that ``max_stack_depth`` allows, and 401 if the
    guard finds that the API key is no longer valid.
    """
    # PostgreSQL can store no device with another identifier.
    members = [
        (identifier, document)
        for identifier, document in documents.items()
        if identifier and "\0" not in identifier
    ]
    # psycopg2 encodes each object when it formats the statement, so that memory holds
    # one copy less.
    objects = [
        Json(dict(members[start : start + DEVICES_PER_OBJECT]), dumps=_to_text)
        for start in range(0, len(members), DEVICES_PER_OBJECT)
    ]
    update = Call(UPDATE_METADATA, (request_id, key_id, objects, organization_id))
    try:
        execute(cursor, *guard(), update)
    except StatementTooComplex:
        raise ApiError(400, INVALID_JSON) from None
    except InvalidArgumentForLogarithm:
        raise ApiError(401, INVALID_API_KEY) from None
    return dict(cursor.fetchall())


def _to_text(documents: dict[str, JsonText]) -> str:
    return encode(documents).decode()


# A dry run locks its devices until its ROLLBACK arrives. If the service loses power or
# the network before, PostgreSQL terminates the session after 3 seconds, before requests
# that wait for the same devices exceed LOCK_TIMEOUT (4 s).
BEGIN_DRY_RUN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '3s'"


def dry_run_update(
    cursor: Cursor,
    organization_id: str,
    documents: Mapping[str, JsonText],
    request_id: str = "",
    key_id: str | None = None,
    guard: Callable[[], Iterable[Call]] = tuple,
) -> dict[str, str]:
    """Run ``update_metadata``, roll it back, and return or raise the same.

    The connection must be in autocommit mode. On return, it has no transaction or is
    closed.
    """
    try:
        cursor.execute(BEGIN_DRY_RUN)
        return update_metadata(
            cursor, organization_id, documents, request_id, key_id, guard
        )
    finally:
        _roll_back(cursor)


def _roll_back(cursor: Cursor) -> None:
    """Roll back, without an exception that would hide an earlier one."""
    try:
        cursor.execute("ROLLBACK")
    except psycopg2.Error:
        # PostgreSQL rolls back when it detects the closed connection.
        cursor.connection.close()


# The statements that each connection of the service prepares.
PREPARED = (SELECT_API_KEY, GUARD_UPDATE, UPDATE_METADATA)

# Fails if a table, a column or a privilege is missing. Reads no row.
CHECK_SCHEMA = """
SELECT current_setting('transaction_read_only') = 'off',
       (SELECT count(id) FROM api_keys WHERE false),
       (SELECT count(request_id) FROM devices WHERE false)
"""


def check_schema(cursor: Cursor) -> bool:
    """Return whether the server is writable. Fails if the schema is out of date."""
    cursor.execute(CHECK_SCHEMA)
    [[is_writable, *_]] = cursor.fetchall()
    return bool(is_writable)
