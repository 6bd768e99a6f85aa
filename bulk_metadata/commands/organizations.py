"""Organizations: ``flask create-organization``, and how the others find them."""

import click
from flask.cli import with_appcontext
from psycopg2.errors import UniqueViolation
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.session import session


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


INSERT_ORGANIZATION = "INSERT INTO organizations (name) VALUES (%s) RETURNING id"


def create_organization(cursor: Cursor, name: str) -> str:
    """Return the id of a new organization.

    Raises click.ClickException if the name is empty or taken.
    """
    if not name.strip():
        raise click.ClickException("The organization's name must not be empty.")
    try:
        cursor.execute(INSERT_ORGANIZATION, (name.strip(),))
    except UniqueViolation:
        raise click.ClickException(
            f'An organization named "{name.strip()}" exists already.'
        ) from None
    [[organization_id]] = cursor.fetchall()
    return str(organization_id)


SELECT_ORGANIZATION = """
SELECT id
  FROM organizations
 WHERE name = %(organization)s
    OR id::text = lower(%(organization)s)
"""


def find_organization(cursor: Cursor, organization: str) -> str:
    """Return the id of the organization with this name or id.

    Raises click.ClickException if there is none.
    """
    cursor.execute(SELECT_ORGANIZATION, {"organization": organization})
    row = cursor.fetchone()
    if row is None:
        raise click.ClickException(
            f'There is no organization "{organization}". '
            f"Create it with: flask create-organization NAME"
        )
    return str(row[0])
