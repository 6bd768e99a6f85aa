"""CSV and TSV, Excel's too: a row for each device, and a column for each member.

A cell is a string as it stands, unless the header says otherwise: ``battery:number``,
``enabled:boolean``, ``tags:json``. A dot in the name nests. An empty cell leaves the
member out.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Any, BinaryIO

import msgspec

from bulk_metadata.client.device import Device, FileError, Problem
from bulk_metadata.client.lines import MAX_LINE_BYTES, NOT_UTF8, read_lines
from bulk_metadata.json_text import ANY_VALUE, JsonText

csv.field_size_limit(MAX_LINE_BYTES)

IDENTIFIER = "identifier"

# RFC 8259, 6.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

# Excel writes the list separator of its country, and its own words in capitals.
SEPARATORS = ",;\t"
BOOLEANS = {"true": JsonText(b"true"), "false": JsonText(b"false")}


class CellError(Exception):
    """What a cell's text is not."""


def _number(text: str) -> JsonText:
    if not NUMBER.fullmatch(text.strip()):
        raise CellError("not a number")
    return JsonText(text.strip().encode())


def _boolean(text: str) -> JsonText:
    if (value := BOOLEANS.get(text.strip().lower())) is None:
        raise CellError("neither true nor false")
    return value


def _json(text: str) -> JsonText:
    try:
        return ANY_VALUE.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise CellError(f"not JSON ({error})") from None


TYPES: dict[str, Callable[[str], object]] = {
    "string": str,
    "number": _number,
    "boolean": _boolean,
    "json": _json,
}


class Column:
    """A column: where its cells go in the metadata, and as what."""

    def __init__(self, header: str) -> None:
        """Read the header. Raises CellError with what is wrong with it."""
        name, colon, type_name = header.rpartition(":")
        if not colon:
            name, type_name = header, "string"
        if type_name not in TYPES:
            raise CellError(f"has none of the types there are: {', '.join(TYPES)}")
        self.header = header
        self.convert = TYPES[type_name]
        self.path = name.split(".")
        *self.parents, self.member = self.path
        if not all(self.path):
            raise CellError("does not name a member")

    def put(self, cell: str, metadata: dict[str, Any]) -> None:
        """Put the cell's value where it belongs. Raises CellError."""
        for parent in self.parents:
            metadata = metadata.setdefault(parent, {})
        metadata[self.member] = self.convert(cell)


def read_csv(file: BinaryIO) -> Iterator[Device | Problem]:
    """Yield what each row says. The header tells how cells are separated. Raises
    FileError."""
    lines = read_lines(file)
    first = next(lines, "")
    separator = max(SEPARATORS, key=first.count)
    return _read(chain([first], lines), separator)


def read_tsv(file: BinaryIO) -> Iterator[Device | Problem]:
    """Yield what each row says, its cells separated by tabs. Raises FileError."""
    return _read(read_lines(file), "\t")


def _read(lines: Iterable[str], separator: str) -> Iterator[Device | Problem]:
    rows = csv.reader(lines, delimiter=separator, strict=True)
    numbers = count(1)
    # Where the row being read begins: a cell in quotes may hold line breaks.
    line = 1
    try:
        header = [name.strip() for name in next(rows, [])]
        columns = _columns(header)
        place = header.index(IDENTIFIER)
        line = rows.line_num + 1
        for row in rows:
            if row:  # not a blank line
                yield _device(next(numbers), line, row, place, columns)
            line = rows.line_num + 1
    except csv.Error as error:
        raise FileError(line, error) from None


def _columns(header: Sequence[str]) -> list[Column | None]:
    """Return what each column is; the identifier's is None."""
    if header.count(IDENTIFIER) != 1:
        raise FileError(1, f'the header must have one column "{IDENTIFIER}"')
    columns: list[Column | None] = []
    for name in header:
        try:
            column = None if name == IDENTIFIER else Column(name)
            _judge_column(column, columns)
        except CellError as error:
            raise FileError(1, f'the column "{name}" {error}') from None
        columns.append(column)
    return columns


def _judge_column(column: Column | None, before: Iterable[Column | None]) -> None:
    if column is None:
        return
    if column.header == "metadata":
        raise CellError(
            "is not needed: every column is a member of the metadata. For a member "
            'of that name call it "metadata:string"'
        )
    for other in filter(None, before):
        shorter = min(len(column.path), len(other.path))
        if column.path[:shorter] == other.path[:shorter]:
            raise CellError(f'goes where the column "{other.header}" goes')


def _device(
    number: int,
    line: int,
    row: Sequence[str],
    place: int,
    columns: Sequence[Column | None],
) -> Device | Problem:
    if len(row) != len(columns):
        reason = f"{len(row)} cells, where the header has {len(columns)}"
        return Problem(number, line, "", reason)
    identifier = row[place].strip()
    metadata: dict[str, Any] = {}
    reasons = []
    for column, cell in zip(columns, row, strict=True):
        if column and cell:
            try:
                column.put(cell, metadata)
            except CellError as error:
                reasons.append(f'column "{column.header}": "{cell}" is {error}')
    if reasons:
        return Problem(number, line, identifier, "; ".join(reasons))
    try:
        identifier.encode()
        return Device(number, line, identifier, msgspec.json.encode(metadata))
    except UnicodeEncodeError:
        return Problem(number, line, "", NOT_UTF8)
