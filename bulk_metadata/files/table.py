"""CSV and TSV: a row for each device, and a column for each member of the metadata.

Instead of these columns, a table can have the column "metadata", with a JSON object in
each cell. An empty cell means that the device does not have the member.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from bulk_metadata.core.text import shorten
from bulk_metadata.files import Options, advice
from bulk_metadata.files.cells import ZERO_WIDTH, clean_name
from bulk_metadata.files.device import Device, DeviceError, FileError, Problem
from bulk_metadata.files.rows import SEPARATOR_LINE, Rows
from bulk_metadata.files.source import (
    INVALID_BYTE,
    MAX_LENGTH,
    encoding_error,
    read_lines,
)

if TYPE_CHECKING:
    from _csv import Writer

csv.field_size_limit(MAX_LENGTH)

SEPARATORS = ",;\t|"

# Quotation marks around cells. LibreOffice can use the apostrophe.
QUOTES = "\"'"

# PowerShell's Export-Csv writes it before the header.
TYPE_LINE = re.compile(r"#TYPE .*\s*")

# Lines and characters of a header with line breaks in quoted cells. Each line parses
# the header again.
MAX_HEADER_LINES = 100
MAX_HEADER_SIZE = 65_536

# In messages of the csv module.
OPEN_QUOTE = "unexpected end of data"
LONG_CELL = "field larger than"


class Header(NamedTuple):
    """The header of a table."""

    line: int
    last_line: int
    separator: str
    quote: str
    names: list[str]
    identifier_index: int


def read_table(text: TextIO, options: Options) -> Iterator[Device | Problem]:
    """Read the header and return the devices. Raises FileError, for the header
    immediately."""
    lines = read_lines(text)
    header = _read_header(lines, options.identifier_column)
    try:
        rows = Rows(header.names, header.identifier_index)
    except DeviceError as error:
        raise FileError(header.line, error.reason, error.fix) from None
    if not (rows.have_metadata or options.allow_empty):
        name = header.names[header.identifier_index]
        reason = f'the table has no column except "{name}"'
        raise FileError(header.line, reason, advice.NO_METADATA)
    return rows.devices(_rows(lines, header))


def _read_header(lines: Iterator[str], identifier_column: str) -> Header:
    """Read the header. The separator and the quotation mark are those of the identifier
    column.

    Raises FileError.
    """
    separators, pending, line = SEPARATORS, list[str](), 1
    for line, characters in enumerate(lines, 1):
        if not pending and (match := SEPARATOR_LINE.fullmatch(characters)):
            separators = match[1]
        elif pending or not (_is_blank(characters) or TYPE_LINE.fullmatch(characters)):
            pending.append(characters)
            first = line + 1 - len(pending)
            rows = _split_all(pending, separators)
            for (separator, quote), names in rows.items():
                if indexes := _indexes(names, identifier_column):
                    header = Header(first, line, separator, quote, names, indexes[0])
                    return _checked(header, len(indexes))
            is_long = sum(map(len, pending)) > MAX_HEADER_SIZE
            if all(rows.values()) or len(pending) == MAX_HEADER_LINES or is_long:
                break
    names = max(_split_all(pending, separators).values(), key=len)
    raise _error(line + 1 - max(len(pending), 1), names, advice.HEADER)


def _is_blank(characters: str) -> bool:
    """Return whether a line has no visible characters except separators."""
    return not characters.strip(f"{SEPARATORS}{ZERO_WIDTH} \r\n")


def _indexes(names: Sequence[str], identifier_column: str) -> list[int]:
    expected = identifier_column.strip().casefold()
    return [index for index, name in enumerate(names) if name.casefold() == expected]


def _checked(header: Header, identifier_columns: int) -> Header:
    if identifier_columns > 1:
        raise _error(header.line, header.names, advice.ONE_IDENTIFIER_COLUMN)
    if invalid := next(filter(INVALID_BYTE.search, header.names), None):
        error = encoding_error(invalid)
        raise FileError(header.line, error.reason, error.fix)
    return header


def _error(line: int, names: Sequence[str], fix: str) -> FileError:
    if "".join(names).startswith(("{", "[")):
        fix = advice.JSON_CONTENT
    found = shorten(", ".join(f'"{name}"' for name in names)) or "none"
    if INVALID_BYTE.search(found):
        found, fix = INVALID_BYTE.sub("?", found), advice.ENCODING
    reason = f"the header must have one identifier column; its columns: {found}"
    return FileError(line, reason, fix)


def _split_all(
    lines: Sequence[str], separators: str
) -> dict[tuple[str, str], list[str]]:
    """Return the names in a header for each separator and quotation mark."""
    return {
        (separator, quote): _split(lines, separator, quote)
        for quote in QUOTES
        for separator in separators
    }


def _split(lines: Sequence[str], separator: str, quote: str) -> list[str]:
    """Return the names in a header, and none if it is invalid or incomplete."""
    rows = csv.reader(lines, delimiter=separator, quotechar=quote, strict=True)
    try:
        return [clean_name(cell) for cell in next(rows, [])]
    except csv.Error:
        return []


def _rows(lines: Iterator[str], header: Header) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the line where it begins."""
    rows = csv.reader(
        lines, delimiter=header.separator, quotechar=header.quote, strict=True
    )
    line = header.last_line + 1
    try:
        for row in rows:
            if any(row):
                yield line, row
            line = rows.line_num + header.last_line + 1
    except csv.Error as error:
        reason, fix = "a cell continues after its closing double quote", advice.QUOTES
        if OPEN_QUOTE in str(error):
            reason = "a double quote is never closed"
        elif LONG_CELL in str(error):
            reason = f"a cell has more than {MAX_LENGTH:,} characters"
            fix = advice.LONG_LINE
        raise FileError(line, reason, fix) from None


def csv_writer(file: TextIO, separator: str = ",") -> "Writer":
    """Return a writer of rows that end with a line feed, as scripts expect."""
    return csv.writer(_LineFeeds(file), delimiter=separator)


class _LineFeeds:
    """Replaces the line ends of the csv module. It would write carriage returns
    without quotes if it wrote line feeds itself."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        self._file.write(row.removesuffix("\r\n") + "\n")
