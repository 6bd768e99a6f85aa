"""Organizations and API keys: the statements of the commands that manage them."""

import re
from typing import NamedTuple

from psycopg2.errors import UniqueViolation
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.core.api_key import digest, generate_key
from bulk_metadata.db.transaction import OperatorError, check_span

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

CREATE_ORGANIZATION = "INSERT INTO organizations (name) VALUES (%s) RETURNING id::text"


def create_organization(cursor: Cursor, name: str) -> str:
    """Return the ID of a new organization. Raises OperatorError if the name is taken or
    invalid."""
    name = checked_name("organization", name)
    try:
        cursor.execute(CREATE_ORGANIZATION, (name,))
    except UniqueViolation:
        raise OperatorError(f'An organization named "{name}" already exists.') from None
    [[organization_id]] = cursor.fetchall()
    return str(organization_id)


FIND_ORGANIZATION = """
SELECT id::text
  FROM organizations
 WHERE name = %(organization)s
    OR id::text = lower(%(organization)s)
"""


def find_organization(cursor: Cursor, organization: str) -> str:
    """Return the ID of the organization with this name or ID. Raises OperatorError if
    it does not exist."""
    cursor.execute(FIND_ORGANIZATION, {"organization": organization.strip()})
    row = cursor.fetchone()
    if row is None:
        raise OperatorError(
            f'The organization "{organization}" does not exist. List the names with '
            '"flask list-keys", or create it with "flask create-organization NAME"'
        )
    return str(row[0])


# The outer SELECT formats the text: Citus rejects to_char() in RETURNING.
CREATE_KEY = """
WITH created AS (
     INSERT INTO api_keys (organization_id, name, key_hash, expires_at)
          VALUES (%s, %s, %s, now() + %s::interval)
       RETURNING id, expires_at)
SELECT id::text,
       coalesce(to_char(expires_at, '"expires "YYYY-MM-DD HH24:MI TZ'),
                'never expires')
  FROM created
"""


class NewKey(NamedTuple):
    """A new API key, with its text, which is not stored."""

    id: str
    text: str
    expiry: str


def create_key(
    cursor: Cursor, organization_id: str, name: str, expires_in: str | None = None
) -> NewKey:
    """Return a new API key.

    ``expires_in`` is a PostgreSQL interval, for example ``90 days``. Without it the API
    key never expires. Raises OperatorError if the interval or the name is invalid.
    """
    name = checked_name("API key", name)
    if expires_in is not None:
        check_span(cursor, "--expires-in", expires_in)
    key = generate_key()
    cursor.execute(CREATE_KEY, (organization_id, name, digest(key), expires_in))
    [[key_id, expiry]] = cursor.fetchall()
    return NewKey(key_id, key, expiry)


LIST_KEYS = """
  SELECT api_keys.id::text,
         CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
              WHEN expires_at <= now() THEN 'expired'
              ELSE 'active '
         END,
         to_char(api_keys.created_at, '"created "YYYY-MM-DD HH24:MI TZ'),
         coalesce(to_char(expires_at, '"expires "YYYY-MM-DD HH24:MI TZ'),
                  'never expires'),
         organizations.name,
         api_keys.name
    FROM api_keys
    JOIN organizations ON organizations.id = organization_id
   WHERE %(organization_id)s IS NULL
      OR organization_id = %(organization_id)s::uuid
ORDER BY organizations.name, api_keys.created_at
"""


def list_keys(cursor: Cursor, organization_id: str | None) -> list[tuple[str, ...]]:
    """Return the API keys of the organization, or of all, as columns of text."""
    cursor.execute(LIST_KEYS, {"organization_id": organization_id})
    return cursor.fetchall()


# least() ignores NULL. Citus rejects coalesce() with now() in an UPDATE.
REVOKE_KEY = """
WITH revoked AS (
        UPDATE api_keys
           SET revoked_at = least(revoked_at, now())
         WHERE id = %s
     RETURNING revoked_at)
SELECT to_char(revoked_at, 'YYYY-MM-DD HH24:MI:SS TZ')
  FROM revoked
"""


def revoke_key(cursor: Cursor, key_id: str) -> str:
    """Revoke the API key unless it is revoked, and return the time of the revocation.
    Raises OperatorError if the API key does not exist."""
    cursor.execute(REVOKE_KEY, (key_id,))
    row = cursor.fetchone()
    if row is None:
        raise OperatorError(
            f"The API key {key_id} does not exist. List all API keys with: "
            "flask list-keys"
        )
    return str(row[0])


def check_key(cursor: Cursor, organization_id: str, key_id: str) -> None:
    """Raise OperatorError if the API key does not belong to the organization."""
    if key_id not in {row[0] for row in list_keys(cursor, organization_id)}:
        raise OperatorError(
            f"The organization has no API key with ID {key_id}. List its API keys "
            "with: flask list-keys ORGANIZATION"
        )


def checked_name(subject: str, name: str) -> str:
    """Return the name trimmed. Raises OperatorError if it is empty, contains control
    characters, or could be confused with an ID."""
    name = name.strip()
    if not name or not name.isprintable() or UUID.fullmatch(name):
        raise OperatorError(
            f"The {subject} name must be printable text and must not be a UUID."
        )
    return name
