"""CSV and TSV, Excel's too: a row for each device, and a column for each member.

What the columns are is told by column.py. An empty cell leaves the member out.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Any, BinaryIO, TextIO

import msgspec

from bulk_metadata.files.columns import (
    IDENTIFIER,
    CellError,
    Column,
    HeaderError,
    Nameless,
    columns_of,
)
from bulk_metadata.files.device import Device, FileError, Problem
from bulk_metadata.files.lines import MAX_LINE_BYTES, NOT_UTF8, read_lines

csv.field_size_limit(MAX_LINE_BYTES)

# Excel writes the list separator of its country.
SEPARATORS = ",;\t"
# And some write for it what that is.
SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?")

# In plain words what the csv module says of programs.
PLAIN_WORDS = {
    "unexpected end of data": "a quote is never closed",
    "field larger than": f"a cell of over {MAX_LINE_BYTES} characters; is a quote "
    "never closed?",
    "new-line character": "a carriage return that ends no line. If all lines end with "
    "one, as on old Macs, save the file with other line ends",
}


def read_csv(file: BinaryIO) -> Iterator[Device | Problem]:
    """Yield what each row says. The header tells how cells are separated. Raises
    FileError."""
    lines = read_lines(file)
    first = next(lines, "")
    if said := SEPARATOR_LINE.fullmatch(first):
        yield from _read(chain(["\n"], lines), said[1])
    else:
        yield from _read(chain([first], lines), max(SEPARATORS, key=first.count))


def read_tsv(file: BinaryIO) -> Iterator[Device | Problem]:
    """Yield what each row says, its cells separated by tabs. Raises FileError."""
    return _read(read_lines(file), "\t")


def _read(lines: Iterable[str], separator: str) -> Iterator[Device | Problem]:
    rows = _rows(lines, separator)
    line, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    try:
        "".join(header).encode()
        columns = columns_of(header)
    except UnicodeEncodeError:
        raise FileError(line, NOT_UTF8) from None
    except HeaderError as error:
        raise FileError(line, error) from None
    place = header.index(IDENTIFIER)
    for number, (line, row) in zip(count(1), rows, strict=False):
        yield _device(number, line, row, place, columns)


def _rows(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows in which anything stands, each with the line where it begins: a
    cell in quotes may hold line breaks."""
    rows = csv.reader(lines, delimiter=separator, strict=True)
    line = 1
    try:
        for row in rows:
            if any(row):
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        reasons = (plain for words, plain in PLAIN_WORDS.items() if words in str(error))
        raise FileError(line, next(reasons, error)) from None


def _device(
    number: int,
    line: int,
    row: Sequence[str],
    place: int,
    columns: Sequence[Column | Nameless | None],
) -> Device | Problem:
    if len(row) != len(columns):
        reason = f"{len(row)} cells, where the header has {len(columns)}"
        return Problem(number, line, "", reason)
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Problem(number, line, "", NOT_UTF8)
    identifier = row[place].strip()
    metadata: dict[str, Any] = {}
    reasons = []
    for column, cell in zip(columns, row, strict=True):
        if column and cell:
            try:
                column.put(cell, metadata)
            except CellError as error:
                reasons.append(str(error))
    if reasons:
        return Problem(number, line, identifier, "; ".join(reasons))
    try:
        return Device(number, line, identifier, msgspec.json.encode(metadata))
    except RecursionError:
        return Problem(number, line, identifier, "nested too deeply")


class Lines:
    """A text file for the csv module that ends rows with LF, as scripts expect.

    With the parameter lineterminator, the csv module does not quote a CR in a cell.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        """Write ``row``, which ends with CRLF."""
        self._file.write(row.removesuffix("\r\n") + "\n")


def csv_writer(file: TextIO) -> Any:
    """Return a csv.writer whose rows end with LF."""
    return csv.writer(Lines(file))
