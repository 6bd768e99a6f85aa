"""``flask list-requests`` and ``history``."""

import click

from bulk_metadata.commands.output import progress_bar
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.core.json_text import MEMBERS, JsonText, encode
from bulk_metadata.core.text import printable
from bulk_metadata.db.accounts import find_organization
from bulk_metadata.db.history.settings import select_history
from bulk_metadata.db.history.versions import (
    select_request,
    select_versions,
    select_writers,
)
from bulk_metadata.db.transaction import past_time


@blueprint.cli.command("list-requests")
@click.argument("organization")
@click.option(
    "--since",
    metavar="TIME",
    help="Earliest time of a request in UTC, for example '2026-11-26 14:30' or "
    "'yesterday'.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Maximum number of requests.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_requests_command(
    organization: str, since: str | None, limit: int, as_json: bool
) -> None:
    """List the requests that replaced metadata in ORGANIZATION, newest first.

    CURRENT is the number of devices that still have the metadata of the request.
    """
    with session(index_plans=True) as cursor:
        history = select_history(cursor)
        organization_id = find_organization(cursor, organization)
        start = None if since is None else past_time(cursor, "--since", since)
        writers = select_writers(cursor, organization_id, start, limit)
        with progress_bar(writers, label="Counting devices") as bar:
            requests = [select_request(cursor, organization_id, *row) for row in bar]
    if as_json:
        click.echo(encode(requests))
        return
    rows = [("REQUEST ID", "API KEY", "KEY ID", "FIRST", "LAST", "DEVICES", "CURRENT")]
    for request in requests:
        rows.append(
            (
                printable(request.request_id),
                request.key_name or "-",
                request.key_id or "-",
                f"{request.first_at:%Y-%m-%d %H:%M:%S}",
                f"{request.last_at:%Y-%m-%d %H:%M:%S %Z}",
                f"{request.devices:,}",
                f"{request.current:,}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        click.echo("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    if not requests:
        click.echo(f"No requests found. The history starts at {history.starts_at}.")


@blueprint.cli.command("history")
@click.argument("organization")
@click.argument("identifier")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history_command(organization: str, identifier: str, as_json: bool) -> None:
    """List the changes of the device IDENTIFIER in ORGANIZATION, newest first, with the
    metadata before each change."""
    with session(index_plans=True) as cursor:
        history = select_history(cursor)
        organization_id = find_organization(cursor, organization)
        metadata, versions = select_versions(cursor, organization_id, identifier)
    if as_json:
        device = {"metadata": JsonText(metadata.encode()), "versions": versions}
        click.echo(encode(device))
        return
    click.echo(f"Current metadata: {printable(metadata)}")
    for version in versions:
        writer = "another program"
        if version.request_id is not None:
            key = f' with API key "{version.key_name}"' if version.key_id else ""
            writer = f"request {printable(version.request_id)}{key}"
        click.echo(f"\n{version.changed_at:%Y-%m-%d %H:%M:%S.%f %Z} by {writer}")
        previous = bytes(version.previous_metadata).decode()
        print_difference(previous, metadata)
        click.echo(f"Previous metadata: {printable(previous)}")
        metadata = previous
    click.echo(f"\nThe history starts at {history.starts_at}.")


def print_difference(before: str, after: str) -> None:
    """Print the members that a change removed and added."""
    try:
        old, new = MEMBERS.decode(before), MEMBERS.decode(after)
    except RecursionError:
        return  # The nesting is too deep. The metadata is printed completely.
    for sign, color, members, others in (
        ("-", "red", old, new),
        ("+", "green", new, old),
    ):
        for name, value in members.items():
            if others.get(name) != value:
                text = printable(f"{encode(name).decode()}: {bytes(value).decode()}")
                click.secho(f"  {sign} {text}", fg=color)
