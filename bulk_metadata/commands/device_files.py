"""Device files as the input of commands: loaded into a table of the database."""

from collections.abc import Iterable, Iterator

import click

from bulk_metadata.commands.output import progress_bar
from bulk_metadata.core.text import counted
from bulk_metadata.db.devices import (
    NestingError,
    copy_file_devices,
    create_file_devices,
    select_repeated,
)
from bulk_metadata.db.transaction import Cursor
from bulk_metadata.files import Options, advice
from bulk_metadata.files.device import FileError, Problem, ProblemList, repeats
from bulk_metadata.files.formats import UnknownFormatError
from bulk_metadata.files.reader import Chunk, DeviceFile
from bulk_metadata.files.source import Source

FILE = click.Path(exists=True, dir_okay=False, allow_dash=True)


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
        with progress_bar(length=self._source.size, label="Reading") as progress:
            position = 0
            for chunk in chunks:
                yield chunk
                progress.update(self._source.position - position)
                position = self._source.position

    def _report(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._errors += 1
            self._problems.add(problem)
