"""``flask create-organization``."""

import click

from bulk_metadata.commands.output import report
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.db.accounts import create_organization


@blueprint.cli.command("create-organization")
@click.argument("name")
def create_organization_command(name: str) -> None:
    """Create the organization NAME."""
    with session() as cursor:
        organization_id = create_organization(cursor, name)
    report(f'Created organization "{name.strip()}" with ID {organization_id}')
