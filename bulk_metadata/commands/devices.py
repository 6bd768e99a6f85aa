"""``flask import-devices`` and ``flask export-devices``."""

import gzip
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, cast

import click

from bulk_metadata.commands.device_files import FILE, Loader, open_source
from bulk_metadata.commands.output import (
    is_terminal,
    progress_bar,
    report,
    standard_output,
)
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.core.json_text import encode
from bulk_metadata.core.text import counted
from bulk_metadata.db.accounts import find_organization
from bulk_metadata.db.devices import count_devices, insert_devices, select_devices
from bulk_metadata.files import Options, file_options
from bulk_metadata.files.cells import is_read_back
from bulk_metadata.files.table import csv_writer


@blueprint.cli.command("import-devices")
@click.argument("organization")
@click.argument("file", type=FILE)
@file_options
@click.option(
    "--json", "as_json", is_flag=True, help="Print errors and summary as JSON."
)
def import_devices_command(
    organization: str, file: str, as_json: bool, **options: Any
) -> None:
    """Create devices from FILE.

    ORGANIZATION is a name or an ID. FILE is a CSV, TSV, NDJSON or JSON file, also
    compressed with gzip, or "-" for standard input. Existing devices are skipped. If
    the file contains an error, nothing is imported.
    """
    with open_source(file) as source, session() as cursor:
        organization_id = find_organization(cursor, organization)
        loader = Loader(source, Options(allow_empty=True, **options), as_json=as_json)
        total = loader.load(cursor, "Nothing was imported.")
        created = insert_devices(cursor, organization_id)
    skipped = total - created
    if as_json:
        summary = {"devices": total, "created": created, "skipped": skipped}
        report(encode({"summary": summary}))
        return
    report(
        f'Imported into "{organization}": {created} created, '
        f"{skipped} skipped because they already exist."
    )
    if skipped:
        report(f"To replace their metadata, use: bulk-metadata push {file}")


@blueprint.cli.command("export-devices")
@click.argument("organization")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option(
    "--identifiers",
    "identifiers_file",
    type=FILE,
    help="Device file. Export only the devices in this file. Other extensions and "
    "standard input are read as CSV with the header 'identifier'.",
)
def export_devices_command(
    organization: str, file: str, identifiers_file: str | None
) -> None:
    """Export the devices of an organization.

    ORGANIZATION is a name or an ID. Without FILE, the devices are written to standard
    output. FILE is CSV or TSV if it has that extension, otherwise NDJSON. The extension
    .gz compresses it. "bulk-metadata push FILE" restores the metadata.
    """
    with session() as cursor:
        organization_id = find_organization(cursor, organization)
        listed = None
        if identifiers_file:
            with open_source(identifiers_file) as source:
                options = Options(allow_empty=True, default_format="csv")
                loader = Loader(source, options, as_json=False)
                listed = loader.load(cursor, "Nothing was exported.")
        selection = (cursor, organization_id, listed is not None)
        count = count_devices(*selection)
        # The lines of a progress bar and of the devices would be mixed.
        hidden = file == "-" and is_terminal(sys.stdout)
        with (
            closing(select_devices(*selection)) as devices,
            output(file) as text,
            progress_bar(
                devices, length=count, label="Exporting", hidden=hidden
            ) as progress,
        ):
            write_devices(progress, file, text)
    if listed is not None and listed > count:
        missing = f"{listed - count:,} of {counted(listed, 'identifier')}"
        click.echo(f'{missing} do not exist in "{organization}".', err=True)


def write_devices(devices: Iterable[tuple[str, str]], file: str, text: TextIO) -> None:
    """Write identifier and metadata of ``devices`` in the format of ``file``."""
    name = file.lower().removesuffix(".gz")
    if not name.endswith((".csv", ".tsv")):
        for identifier, document in devices:
            key = encode(identifier).decode()
            text.write(f'{{"identifier": {key}, "metadata": {document}}}\n')
        return
    writer = csv_writer(text, "," if name.endswith(".csv") else "\t")
    writer.writerow(["identifier", "metadata"])
    unreadable = 0
    for identifier, document in devices:
        writer.writerow([identifier, document])
        unreadable += not is_read_back(identifier)
    if unreadable:
        click.echo(
            f"{counted(unreadable, 'identifier')} in {file} cannot be read back from a "
            'table, for example numbers such as "3.57E+14". Export NDJSON instead.',
            err=True,
        )


@contextmanager
def output(file: str) -> Iterator[TextIO]:
    """Yield a text file that replaces ``file`` when it is complete, or standard
    output. Raises click.ClickException if it cannot be written."""
    if file == "-":
        stdout = standard_output()
        cast(TextIOWrapper, stdout).reconfigure(encoding="utf-8")
        yield stdout
        stdout.flush()
        return
    path = partial = Path(file)
    # A pipe or a device is written directly.
    is_regular = path.is_file() or not path.exists()
    if is_regular:
        path = path.resolve()  # A symbolic link is kept.
        # A unique name, because another export may write the same file.
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    opener: Any = gzip.open if file.lower().endswith(".gz") else open
    try:
        with opener(partial, "wt", encoding="utf-8", newline="") as text:
            if is_regular and path.exists():
                shutil.copymode(path, partial)
            yield text
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise click.ClickException(f"Cannot write {file}: {reason}") from None
    finally:
        if is_regular:
            with suppress(OSError):
                partial.unlink()
