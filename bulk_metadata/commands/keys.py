"""API keys: ``flask create-key``, ``list-keys`` and ``revoke-key``."""

import re
from typing import NamedTuple
from uuid import UUID

import click
from flask.cli import with_appcontext
from psycopg2.errors import DataError
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.organizations import checked_name, find_organization
from bulk_metadata.commands.transaction import session
from bulk_metadata.core.api_key import digest, generate_key

UNIT = re.compile(r"[A-Za-z:]")


@click.command("create-key")
@click.argument("organization")
@click.option("--name", default="default", show_default=True, help="What it is for.")
@click.option(
    "--expires-in", metavar="SPAN", help="'90 days', '12 hours': never unless given."
)
@with_appcontext
def create_key_command(organization: str, name: str, expires_in: str | None) -> None:
    """Create an API key for ORGANIZATION (its id or name) and show it, once."""
    with session() as cursor:
        organization_id = find_organization(cursor, organization)
        key = create_key(cursor, organization_id, name, expires_in)
    click.echo(
        f'Created the key "{name}" with the id {key.id}, which {key.expiry}; '
        f"it is shown only now: {key.text}"
    )


CREATE_KEY = """
INSERT INTO api_keys (organization_id, name, key_hash, expires_at)
     VALUES (%s, %s, %s, now() + %s::interval)
  RETURNING id, expires_at <= now(),
            coalesce(to_char(expires_at, '"expires "YYYY-MM-DD HH24:MI TZ'),
                     'never expires')
"""


class NewKey(NamedTuple):
    """A key that was just created: the only time that its text is known."""

    id: str
    text: str
    expiry: str


def create_key(
    cursor: Cursor, organization_id: str, name: str, expires_in: str | None = None
) -> NewKey:
    """Return a new API key.

    ``expires_in`` is an interval as PostgreSQL reads it, like ``90 days``; without it
    the key does not expire. Raises click.ClickException if it is not one above zero.
    """
    name = checked_name("key", name)
    key = generate_key()
    try:
        cursor.execute(CREATE_KEY, (organization_id, name, digest(key), expires_in))
        [[key_id, has_expired, expiry]] = cursor.fetchall()
    except DataError:
        has_expired = True
    # PostgreSQL takes a bare number for seconds, and a person hardly means that.
    if has_expired or (expires_in and not UNIT.search(expires_in)):
        raise click.ClickException(
            "--expires-in must be a time span above zero, like '90 days' or '12 hours'."
        )
    return NewKey(str(key_id), key, expiry)


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


@click.command("list-keys")
@click.argument("organization", required=False)
@with_appcontext
def list_keys_command(organization: str | None) -> None:
    """List the API keys of ORGANIZATION (its id or name), or all; never the keys
    themselves."""
    with session() as cursor:
        organization_id = (
            None if organization is None else find_organization(cursor, organization)
        )
        cursor.execute(LIST_KEYS, {"organization_id": organization_id})
        rows = cursor.fetchall()
    for row in rows:
        click.echo("  ".join(row))
    if not rows:
        click.echo("There are no keys. Create one with: flask create-key ORGANIZATION")


REVOKE_KEY = """
   UPDATE api_keys
      SET revoked_at = coalesce(revoked_at, now())
    WHERE id = %s
RETURNING to_char(revoked_at, 'YYYY-MM-DD HH24:MI:SS TZ')
"""


@click.command("revoke-key")
@click.argument("key_id", type=click.UUID)
@with_appcontext
def revoke_key_command(key_id: UUID) -> None:
    """Stop the API key with the id KEY_ID from working, at once and for good."""
    with session() as cursor:
        cursor.execute(REVOKE_KEY, (str(key_id),))
        row = cursor.fetchone()
    if row is None:
        raise click.ClickException(
            f"There is no key with the id {key_id}. See them all with: flask list-keys"
        )
    click.echo(f"The key {key_id} is revoked since {row[0]}")
