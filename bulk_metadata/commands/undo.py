"""``flask undo``: restore the metadata that requests replaced."""

import sys
from uuid import UUID

import click

from bulk_metadata.commands.output import confirm, progress_bar, report
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.core.json_text import Struct, encode
from bulk_metadata.core.text import counted, printable
from bulk_metadata.db.accounts import check_key, find_organization
from bulk_metadata.db.history.settings import select_history
from bulk_metadata.db.history.target import Target
from bulk_metadata.db.history.undo import MISSING, STEP, Skipped, Undo
from bulk_metadata.db.transaction import past_time

# Exit codes, besides 0 if all devices were restored, and 1 if none was.
SOME_SKIPPED = 3
INCOMPLETE = 4

# Skipped devices that are listed before the confirmation.
MAX_LISTED = 20


class Result(Struct, rename="camel"):
    """The result of an undo, or of its dry run."""

    undo_request_id: str
    restored: int
    skipped: list[Skipped]
    dry_run: bool


@blueprint.cli.command("undo")
@click.argument("organization")
@click.option(
    "--request",
    "request_id",
    metavar="ID",
    help="Request ID, as printed by list-requests.",
)
@click.option("--key", "key_id", type=click.UUID, help="API key ID, as in list-keys.")
@click.option(
    "--since",
    metavar="TIME",
    help="Earliest time of a request in UTC, for example '2026-11-26 14:30'.",
)
@click.option("--force", is_flag=True, help="Restore devices that were changed later.")
@click.option("--dry-run", is_flag=True, help="Count the devices, but restore none.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def undo_command(
    organization: str,
    request_id: str | None,
    key_id: UUID | None,
    since: str | None,
    force: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Restore the metadata that devices of ORGANIZATION had before a request.

    Select the request with --request, or all requests of an API key since a time with
    --key and --since. A device that another request or program changed later is
    skipped. An undo is a change, and can be undone. If an undo is interrupted, repeat
    the command.

    Exit codes: 0 if all devices were restored, 3 if some were skipped, 1 if none was
    restored, 4 if the undo is incomplete.
    """
    if (request_id is None) == (since is None) or (since is not None and not key_id):
        raise click.UsageError("Use either --request, or --key and --since.")
    result = Result("", 0, [], dry_run)
    try:
        with session(index_plans=True) as cursor:
            select_history(cursor)
            organization_id = find_organization(cursor, organization)
            if key_id:
                check_key(cursor, organization_id, str(key_id))
            start = None if since is None else past_time(cursor, "--since", since)
            key = str(key_id) if key_id else None
            target = Target(organization_id, request_id, key, start)
            undo = Undo(cursor, target, force=force)
            if not (dry_run or yes):
                confirm_undo(run(undo, Result("", 0, [], dry_run=True)))
            run(undo, result)
            undo.release()
    except (click.ClickException, KeyboardInterrupt, OSError) as error:
        if dry_run or not result.restored:
            raise
        report(
            f"Error: {str(error) or 'Interrupted.'} The undo is incomplete: "
            f"{counted(result.restored, 'device')} restored. Repeat the command.",
            err=True,
        )
        sys.exit(INCOMPLETE)
    report(encode(result) if as_json else summary(result))
    if not result.restored:
        # A resumed undo was complete already.
        sys.exit(int(bool(result.skipped) or not undo.is_resumed))
    if result.skipped:
        sys.exit(SOME_SKIPPED)


def run(undo: Undo, result: Result) -> Result:
    """Run all steps and add their results to ``result``."""
    result.undo_request_id = undo.request_id
    with progress_bar(
        range(1, undo.devices + 1, STEP),
        label="Checking" if result.dry_run else "Restoring",
    ) as positions:
        for position in positions:
            step = undo.step(position, dry_run=result.dry_run)
            result.restored += step.restored
            result.skipped += step.skipped
    if not result.dry_run:
        undo.finish()
    return result


def confirm_undo(result: Result) -> None:
    """Ask whether to continue, unless no device can be restored."""
    if result.restored:
        click.echo(summary(result, MAX_LISTED), err=True)
        click.echo(
            "If an upload with this request ID still runs or is resumed, it replaces "
            "the metadata again.",
            err=True,
        )
        confirm("Continue?", err=True)


def summary(result: Result, max_listed: int | None = None) -> str:
    """Return the result as text, with up to ``max_listed`` skipped devices."""
    if not (result.restored or result.skipped):
        return "All changes of these requests are undone already."
    lines = [
        f"Skipped {printable(device.identifier)}: {printable(device.reason)}"
        for device in result.skipped[:max_listed]
    ]
    if len(lines) < len(result.skipped):
        lines.append(f"... and {len(result.skipped) - len(lines):,} more")
    restore, skip = (
        ("Would restore", "skip") if result.dry_run else ("Restored", "skipped")
    )
    devices = counted(result.restored, "device")
    lines.append(f"{restore} {devices}, {skip} {len(result.skipped):,}.")
    if any(device.reason != MISSING for device in result.skipped):
        lines.append("To also restore devices that were changed later, use --force.")
    if result.restored and not result.dry_run:
        lines.append(f"To undo this, use the request ID {result.undo_request_id}")
    return "\n".join(lines)
