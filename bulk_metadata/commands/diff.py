"""``flask diff-devices``: the changes that a push of a file would make."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import click

from bulk_metadata.commands.device_files import FILE, Loader, open_source
from bulk_metadata.commands.output import Command
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.core.json_text import MEMBERS, JsonText, encode
from bulk_metadata.core.text import counted, printable, shorten
from bulk_metadata.db.accounts import find_organization
from bulk_metadata.db.devices import select_changes
from bulk_metadata.files import Options, file_options

# The exit code if a push would change a device.
CHANGED = 2

# Unchanged devices that are listed. The others are counted.
MAX_UNCHANGED = 20


class Change(NamedTuple):
    """A member of the metadata before and after a push."""

    path: str
    # None if the member does not exist.
    old: JsonText | None
    new: JsonText | None


class InvalidCommandError(click.UsageError):
    """An invalid argument. The usual exit code, 2, means CHANGED."""

    exit_code = 1


class DiffCommand(Command):
    """A command that exits with 1 instead of 2 if its arguments are invalid."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments."""
        with usage_errors_exit_with_1():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with usage_errors_exit_with_1():
            return super().invoke(ctx)


@contextmanager
def usage_errors_exit_with_1() -> Iterator[None]:
    """Raise InvalidCommandError instead of click.UsageError."""
    try:
        yield
    except click.UsageError as error:
        raise InvalidCommandError(error.format_message(), error.ctx) from None


@blueprint.cli.command("diff-devices", cls=DiffCommand)
@click.argument("organization")
@click.argument("file", type=FILE)
@file_options
@click.option("--allow-empty", is_flag=True, help="Accept devices without metadata.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON, one line per device."
)
def diff_devices_command(
    organization: str, file: str, as_json: bool, **options: Any
) -> None:
    """Show the changes that a push of FILE would make.

    ORGANIZATION is a name or an ID.

    Exit codes: 0 if no device would change, 2 if devices would change, 1 if the file
    or the command contains an error.
    """
    statuses: Counter[str] = Counter()
    with open_source(file) as source, session() as cursor:
        organization_id = find_organization(cursor, organization)
        loader = Loader(source, Options(**options), as_json=as_json)
        loader.load(cursor, "Nothing was compared.")
        with closing(select_changes(cursor, organization_id)) as devices:
            for line, identifier, old, new in devices:
                status = status_of(old, new)
                statuses[status] += 1
                if as_json:
                    click.echo(as_json_text(line, identifier, status, old, new))
                elif status != "unchanged" or statuses[status] <= MAX_UNCHANGED:
                    print_device(line, identifier, status, old, new)
    if as_json:
        summary = {
            "devices": statuses.total(),
            "changed": statuses["changed"],
            "unchanged": statuses["unchanged"],
            "notFound": statuses["not_found"],
        }
        click.echo(encode({"summary": summary}))
    else:
        click.echo(
            f"{counted(statuses.total(), 'device')}: {statuses['changed']:,} changed, "
            f"{statuses['unchanged']:,} unchanged, {statuses['not_found']:,} not found."
        )
    sys.exit(CHANGED if statuses["changed"] else 0)


def status_of(old: str | None, new: str) -> str:
    """Return the status of a device with this existing and new metadata."""
    if old is None:
        return "not_found"
    return "unchanged" if old == new else "changed"


def changes(old: str, new: str) -> list[Change]:
    """Return the members that differ. If the nesting is too deep, return the complete
    metadata."""
    try:
        return list(member_changes(old, new))
    except RecursionError:
        return [Change("", JsonText(old.encode()), JsonText(new.encode()))]


def member_changes(
    old: str | bytes, new: str | bytes, parent: str = ""
) -> Iterator[Change]:
    """Yield the members that differ, at the deepest possible level."""
    before, after = MEMBERS.decode(old), MEMBERS.decode(new)
    for name in before | after:
        value, new_value = before.get(name), after.get(name)
        path = parent + name.replace("\\", "\\\\").replace(".", "\\.")
        if value == new_value:
            continue
        pair = bytes(value or b""), bytes(new_value or b"")
        if all(text.startswith(b"{") for text in pair):
            yield from member_changes(*pair, f"{path}.")
        else:
            yield Change(path, value, new_value)


def print_device(
    line: int, identifier: str, status: str, old: str | None, new: str
) -> None:
    """Print a device and the changes of its members."""
    words = status.replace("_", " ")
    click.echo(printable(f"{shorten(identifier)} (line {line}): {words}"))
    if old is None or status != "changed":
        return
    for path, value, new_value in changes(old, new):
        if value is None or new_value is None:
            sign, color = ("+", "green") if value is None else ("-", "red")
            text = shorten(bytes(value or new_value or b"").decode())
        else:
            sign, color = "~", "yellow"
            text = " -> ".join(shorten(bytes(v).decode()) for v in (value, new_value))
        click.secho(printable(f"  {sign} {shorten(path)}: {text}"), fg=color)


def as_json_text(
    line: int, identifier: str, status: str, old: str | None, new: str
) -> bytes:
    """Return a device and the changes of its members as JSON."""
    device: dict[str, Any] = {"line": line, "identifier": identifier, "status": status}
    if old is not None and status == "changed":
        found = changes(old, new)
        device["added"] = {path: value for path, v, value in found if v is None}
        device["removed"] = {path: value for path, value, v in found if v is None}
        device["changed"] = {
            path: {"old": value, "new": new_value}
            for path, value, new_value in found
            if value is not None and new_value is not None
        }
    return encode(device)
