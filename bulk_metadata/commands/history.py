"""The commands of the history, except ``flask undo``."""

import click

from bulk_metadata.commands.transaction import blueprint, change_schema, session
from bulk_metadata.core.json_text import MEMBERS, JsonText, encode
from bulk_metadata.core.text import counted, printable
from bulk_metadata.db.accounts import find_organization
from bulk_metadata.db.history import (
    History,
    delete_expired,
    disable_history,
    enable_history,
    select_history,
    start_partition,
)
from bulk_metadata.db.transaction import Cursor, check_span, past_time
from bulk_metadata.db.versions import list_requests, select_versions

COST = (
    "Cost: 1,000 devices take about 1.2 times as long, one device about 0.1 ms more. A "
    "change of a device needs about 200 bytes and the size of its previous metadata."
)


@blueprint.cli.command("enable-history")
@click.option("--keep", metavar="SPAN", help="Retention time. Default: 90 days.")
def enable_history_command(keep: str | None) -> None:
    """Store the previous metadata of each change, so that requests can be undone.

    If the history is enabled, --keep changes its retention time.
    """

    def enable(cursor: Cursor) -> tuple[bool, History]:
        if keep is not None:
            check_span(cursor, "--keep", keep)
        return enable_history(cursor, keep), select_history(cursor)

    is_new, history = change_schema(enable)
    state = "is enabled" if is_new else f"was enabled before, on {history.starts_at}"
    click.echo(
        f"The history {state}. It keeps versions for {history.keep}. Run flask "
        f"prune-history every day to delete older versions.\n{COST}"
    )


@blueprint.cli.command("disable-history")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def disable_history_command(yes: bool) -> None:
    """Delete the history. Requests can no longer be undone."""
    with session() as cursor:
        history = select_history(cursor)
    click.echo(
        f"This deletes {counted(history.versions, 'version')} "
        f"({history.bytes / 1e6:,.1f} MB), and requests become faster again."
    )
    if not yes:
        click.confirm("Disable the history?", abort=True)
    history = change_schema(disable_history)
    click.echo(f"Deleted {counted(history.versions, 'version')}.")


@blueprint.cli.command("prune-history")
def prune_history_command() -> None:
    """Delete the versions that are older than the retention time.

    Run this command every day. It deletes versions in groups of a tenth of the
    retention time.
    """
    change_schema(start_partition)
    versions = change_schema(delete_expired)
    click.echo(f"Deleted {counted(versions, 'version')}.")


@blueprint.cli.command("list-requests")
@click.argument("organization")
@click.option(
    "--since",
    metavar="TIME",
    help="Start, for example '2026-11-26 14:30' or 'yesterday'. Default: all.",
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
    with session() as cursor:
        history = select_history(cursor)
        organization_id = find_organization(cursor, organization)
        start = None if since is None else past_time(cursor, "--since", since)
        requests = list_requests(cursor, organization_id, start, limit)
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
    with session() as cursor:
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
    old, new = MEMBERS.decode(before), MEMBERS.decode(after)
    for sign, color, members, others in (
        ("-", "red", old, new),
        ("+", "green", new, old),
    ):
        for name, value in members.items():
            if others.get(name) != value:
                text = printable(f"{encode(name).decode()}: {bytes(value).decode()}")
                click.secho(f"  {sign} {text}", fg=color)
