"""``flask enable-history``, ``disable-history`` and ``prune-history``."""

import click

from bulk_metadata.commands.output import confirm, report
from bulk_metadata.commands.transaction import blueprint, change_schema, session
from bulk_metadata.core.text import counted
from bulk_metadata.db.history.retention import delete_expired, start_partition
from bulk_metadata.db.history.settings import (
    History,
    disable_history,
    enable_history,
    select_history,
    select_size,
)
from bulk_metadata.db.transaction import Cursor, check_span

COST = (
    "Cost: a request for 1,000 devices takes about 1.3 times as long, a request for "
    "one device about 0.1 ms longer. The history needs about 140 bytes and the size of "
    "the previous metadata for each change of a device, and 300 bytes for each request."
)


@blueprint.cli.command("enable-history")
@click.option("--keep", metavar="SPAN", help="Retention time.  [default: 90 days]")
def enable_history_command(keep: str | None) -> None:
    """Store the previous metadata of each change.

    Requests can then be undone. If the history is enabled, --keep changes its
    retention time.
    """

    def enable(cursor: Cursor) -> tuple[bool, History]:
        if keep is not None:
            check_span(cursor, "--keep", keep)
        return enable_history(cursor, keep), select_history(cursor)

    is_new, history = change_schema(enable)
    state = "is enabled" if is_new else f"already starts at {history.starts_at}"
    report(
        f"The history {state}. It keeps versions for {history.keep}. Run flask "
        f"prune-history every day to delete older versions.\n{COST}"
    )


@blueprint.cli.command("disable-history")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def disable_history_command(yes: bool) -> None:
    """Delete the history. Requests can no longer be undone."""
    with session() as cursor:
        versions, size = select_size(cursor)
    click.echo(
        f"This deletes {counted(versions, 'version')} ({size / 1e6:,.1f} MB). "
        "Requests then take as long as before."
    )
    if not yes:
        confirm("Disable the history?")
    versions = change_schema(disable_history)
    report(f"Deleted {counted(versions, 'version')}.")


@blueprint.cli.command("prune-history")
def prune_history_command() -> None:
    """Delete the versions that are older than the retention time.

    Run this command every day. It deletes versions in groups of a tenth of the
    retention time.
    """
    change_schema(start_partition)
    versions = change_schema(delete_expired)
    report(f"Deleted {counted(versions, 'version')}.")
