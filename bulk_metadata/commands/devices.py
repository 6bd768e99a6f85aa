"""``flask import-devices``."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.core.json_text import encode
from bulk_metadata.core.text import counted
from bulk_metadata.db.accounts import find_organization
from bulk_metadata.db.devices import (
    NestingError,
    copy_file_devices,
    create_file_devices,
    insert_devices,
    select_repeated,
)
from bulk_metadata.db.transaction import Cursor
from bulk_metadata.files import Options, advice, file_options
from bulk_metadata.files.device import FileError, Problem, ProblemList, repeats
from bulk_metadata.files.formats import UnknownFormatError
from bulk_metadata.files.reader import Chunk, DeviceFile
from bulk_metadata.files.source import Source

FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)


@blueprint.cli.command("import-devices")
@click.argument("organization")
@click.argument("file", type=FILE)
@file_options
@click.option("--json", "as_json", is_flag=True, help="Errors and summary as JSON.")
def import_devices_command(
    organization: str, file: str, as_json: bool, **options: Any
) -> None:
    """Create the devices of FILE in ORGANIZATION (name or ID).

    FILE is a CSV, TSV, NDJSON or JSON file, also compressed with gzip, or "-" for
    standard input. Existing devices are skipped. If the file contains an error, nothing
    is imported.
    """
    with open_source(file) as source, session() as cursor:
        organization_id = find_organization(cursor, organization)
        loader = Loader(source, Options(allow_empty=True, **options), as_json=as_json)
        total = loader.load(cursor, "Nothing was imported.")
        created = insert_devices(cursor, organization_id)
    skipped = total - created
    if as_json:
        summary = {"devices": total, "created": created, "skipped": skipped}
        click.echo(encode({"summary": summary}))
        return
    click.echo(
        f'Imported into "{organization}": {created} created, '
        f"{skipped} skipped because they already exist."
    )
    if skipped:
        click.echo(f"To replace their metadata, use: bulk-metadata push {file}")


def open_source(path: str) -> Source:
    """Open a file or standard input. Raises click.ClickException."""
    try:
        return Source(path)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None


class Loader:
    """Loads a device file into a table of the database, and prints its errors."""

    def __init__(self, source: Source, options: Options, *, as_json: bool) -> None:
        self._source = source
        self._options = options
        self._problems = ProblemList(
            source.name,
            lambda text: click.echo(text, err=True),
            click.echo if as_json else None,
        )
        self._errors = 0

    def load(self, cursor: Cursor, consequence: str) -> int:
        """Load the file, and return the number of its devices.

        Raises click.ClickException with ``consequence`` if the file contains an error
        or changes while it is read.
        """
        create_file_devices(cursor)
        total = 0
        try:
            for chunk in self._chunks():
                copy_file_devices(cursor, chunk.devices)
                self._report(chunk.problems)
                total += len(chunk.devices)
        except UnknownFormatError as error:
            raise click.UsageError(str(error)) from None
        except FileError as error:
            self._report([error.as_problem()])
        except NestingError as error:
            number, line, identifier, _ = error.device
            reason = "the metadata has too many levels of nesting"
            self._report([Problem(number, line, identifier, reason, advice.NESTING)])
        else:
            self._report(
                Problem(number, line, identifier, repeats(first), advice.REPEATED)
                for number, line, identifier, first in select_repeated(cursor)
            )
        self._problems.finish()
        if self._source.has_changed:
            reason = f"{self._source.name} changed while it was read"
            raise click.ClickException(f"{reason}. {consequence}")
        if self._errors:
            errors = counted(self._errors, "error")
            raise click.ClickException(f"{errors}. {consequence}")
        return total

    def _chunks(self) -> Iterator[Chunk]:
        chunks = DeviceFile(self._source, self._options).read()
        with click.progressbar(
            length=self._source.size,
            label="Reading",
            file=sys.stderr,
            hidden=not sys.stderr.isatty(),
        ) as progress:
            position = 0
            for chunk in chunks:
                yield chunk
                progress.update(self._source.position - position)
                position = self._source.position

    def _report(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._errors += 1
            self._problems.add(problem)
