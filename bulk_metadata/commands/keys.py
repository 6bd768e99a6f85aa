"""API keys: ``flask create-key``, ``list-keys`` and ``revoke-key``."""

from uuid import UUID

import click

from bulk_metadata.commands.output import fail, report, standard_output
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.db.accounts import (
    create_key,
    find_organization,
    list_keys,
    revoke_key,
)


@blueprint.cli.command("create-key")
@click.argument("organization")
@click.option(
    "--name", default="default", show_default=True, help="Name of the API key."
)
@click.option(
    "--expires-in",
    metavar="SPAN",
    help="Time until expiry, for example '90 days' or '12 hours'.  [default: never]",
)
def create_key_command(organization: str, name: str, expires_in: str | None) -> None:
    """Create an API key and print it once.

    ORGANIZATION is a name or an ID.
    """
    with session() as cursor:
        organization_id = find_organization(cursor, organization)
        key = create_key(cursor, organization_id, name, expires_in)
        # If this fails, the API key is not created.
        try:
            click.echo(
                f'Created API key "{name.strip()}" with ID {key.id}, which '
                f"{key.expiry}. It is not shown again: {key.text}",
                file=standard_output(),
            )
        except OSError as error:
            fail(error, ". No API key was created.")


@blueprint.cli.command("list-keys")
@click.argument("organization", required=False)
def list_keys_command(organization: str | None) -> None:
    """List the API keys of one or all organizations.

    ORGANIZATION is a name or an ID.
    """
    with session() as cursor:
        organization_id = (
            None if organization is None else find_organization(cursor, organization)
        )
        rows = list_keys(cursor, organization_id)
    for row in rows:
        click.echo("  ".join(row))
    if not rows:
        click.echo("No API keys exist. Create one with: flask create-key ORGANIZATION")


@blueprint.cli.command("revoke-key")
@click.argument("key_id", type=click.UUID)
def revoke_key_command(key_id: UUID) -> None:
    """Revoke an API key immediately and permanently."""
    with session() as cursor:
        revoked_at = revoke_key(cursor, str(key_id))
    report(f"API key {key_id} was revoked at {revoked_at}")
