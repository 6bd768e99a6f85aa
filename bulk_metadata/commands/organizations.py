"""Organizations: ``flask create-organization``, and how the others find them."""

import re

import click
from flask.cli import with_appcontext
from psycopg2.errors import UniqueViolation
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.transaction import session

UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@click.command("create-organization")
@click.argument("name")
@with_appcontext
def create_organization_command(name: str) -> None:
    """Create the organization NAME."""
    with session() as cursor:
        organization_id = create_organization(cursor, name)
    click.echo(
        f'Created the organization "{name.strip()}" with the id {organization_id}'
    )


CREATE_ORGANIZATION = "INSERT INTO organizations (name) VALUES (%s) RETURNING id"


def create_organization(cursor: Cursor, name: str) -> str:
    """Return the id of a new organization.

    Raises click.ClickException if the name is taken.
    """
    name = checked_name("organization", name)
    try:
        cursor.execute(CREATE_ORGANIZATION, (name,))
    except UniqueViolation:
        raise click.ClickException(
            f'An organization named "{name}" exists already.'
        ) from None
    [[organization_id]] = cursor.fetchall()
    return str(organization_id)


FIND_ORGANIZATION = """
SELECT id
  FROM organizations
 WHERE name = %(organization)s
    OR id::text = lower(%(organization)s)
"""


def find_organization(cursor: Cursor, organization: str) -> str:
    """Return the id of the organization with this name or id.

    Raises click.ClickException if there is none.
    """
    cursor.execute(FIND_ORGANIZATION, {"organization": organization.strip()})
    row = cursor.fetchone()
    if row is None:
        raise click.ClickException(
            f'There is no organization "{organization}". '
            f"Create it with: flask create-organization NAME"
        )
    return str(row[0])


def checked_name(what: str, name: str) -> str:
    """Return ``name`` trimmed, as the name of ``what``.

    Raises click.ClickException if it is empty, would break a line or change a terminal,
    or looks like an id.
    """
    name = name.strip()
    if not name or not name.isprintable() or UUID.fullmatch(name):
        raise click.ClickException(
            f"The {what}'s name must be text that can be printed, and not an id."
        )
    return name
