r"""The rows of a table, which become devices.

Rows that repeat the header are skipped: the file was joined from several files.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from bulk_metadata.core.json_text import encode
from bulk_metadata.core.text import counted, shorten
from bulk_metadata.files import advice
from bulk_metadata.files.cells import (
    NULL_MARK,
    clean_cell,
    clean_identifier,
    clean_name,
    may_be_special,
)
from bulk_metadata.files.columns import Column, Nameless
from bulk_metadata.files.device import Device, DeviceError, Problem

METADATA = "metadata"

# Excel's declaration of the separator, before the header.
SEPARATOR_LINE = re.compile(r'"?sep=([^\w"\r\n])"?\s*', re.IGNORECASE)


class Rows:
    """Converts the rows of a table to devices."""

    def __init__(self, names: Sequence[str], place: int) -> None:
        """Parse the ``names`` in the header. The one at ``place`` is the identifier
        column. Raises DeviceError."""
        self._names = list(names)
        self._place = place
        self._name = names[place].casefold()
        columns = [*names[:place], *names[place + 1 :]]
        others = [name.casefold() for name in columns if name]
        #: Whether there is a column for metadata.
        self.have_metadata = bool(others)
        self._have_documents = METADATA in others
        if self._have_documents and len(others) > 1:
            reason = 'the table has the column "metadata" and other columns'
            raise DeviceError(reason, advice.METADATA_COLUMN)
        self._columns = list(self._parse_columns())
        json = {place for place, column in self._columns if column.type == "json"}
        self._json_places = sorted(json)
        self._text_places = [place for place in range(len(names)) if place not in json]
        # Lines of the first \N, and of the first other backslash.
        self._null_line = self._backslash_line = 0

    def _parse_columns(self) -> Iterator[tuple[int, Column]]:
        tree: dict[str, Any] = {}
        for place, name in enumerate(self._names):
            if place != self._place and not name:
                yield place, Nameless()
            elif place != self._place:
                column = Column(f"{METADATA}:json" if self._have_documents else name)
                column.claim(tree)
                yield place, column

    def devices(
        self, rows: Iterable[tuple[int, list[str]]]
    ) -> Iterator[Device | Problem]:
        """Yield the devices of ``rows`` with their lines."""
        number = 1
        for line, row in rows:
            if not self._repeats_header(row):
                yield self._device(number, line, row)
                number += 1

    def _repeats_header(self, row: list[str]) -> bool:
        first = row[0]
        if first.endswith("=") and not any(row[1:]):
            return SEPARATOR_LINE.fullmatch(f"{clean_name(first)},") is not None
        return (
            len(row) == len(self._names)
            and row[self._place].casefold().endswith(self._name)
            and [clean_name(cell) for cell in row] == self._names
        )

    def _device(self, number: int, line: int, row: list[str]) -> Device | Problem:
        errors: list[DeviceError] = []
        identifier, document = "", b""
        try:
            row = self._fit(row)
            self._clean(line, row, errors)
            identifier = self._identifier(row)
        except DeviceError as error:
            errors.append(error)
        if len(row) == len(self._names):
            document = self._document(row, errors)
        if errors:
            reason = "; ".join(error.reason for error in errors)
            fixes = dict.fromkeys(error.fix for error in errors)
            return Problem(number, line, identifier, reason, " ".join(fixes))
        return Device(number, line, identifier, document)

    def _fit(self, row: list[str]) -> list[str]:
        """Return ``row`` with as many cells as the header. Raises DeviceError."""
        width = len(self._names)
        if len(row) == width:
            return row
        surplus = [cell for cell in row[width:] if cell]
        if len(row) > width and not surplus:
            return row[:width]
        if self._name in (clean_name(cell).casefold() for cell in row):
            raise DeviceError("the row is another header", advice.OTHER_HEADER)
        reason = f"expected {counted(width, 'cell')} (as in the header), got {len(row)}"
        if surplus:
            reason += f'; surplus cell: "{shorten(surplus[0])}"'
        raise DeviceError(reason, advice.CELL_COUNT)

    def _clean(self, line: int, row: list[str], errors: list[DeviceError]) -> None:
        """Replace the cells of ``row`` by their intended values."""
        text = "".join(row)
        if self._json_places:
            text = "".join([row[place] for place in self._text_places])
            for place in self._json_places:
                row[place] = "" if row[place] == NULL_MARK else row[place]
        if not may_be_special(text):
            return
        for place in self._text_places:
            try:
                row[place] = self._cleaned(line, place, row[place])
            except DeviceError as error:
                errors.append(self._in_column(place, error))
                row[place] = ""

    def _cleaned(self, line: int, place: int, cell: str) -> str:
        """Return the intended value of a cell. Raises DeviceError."""
        if cell == NULL_MARK:
            self._null_line = self._null_line or line
        elif "\\" in cell:
            self._backslash_line = self._backslash_line or line
        if self._null_line and self._backslash_line and "\\" in cell:
            reason = (
                f'"{shorten(cell)}" has an unclear meaning: line {self._null_line} '
                f"contains \\N, and line {self._backslash_line} another backslash"
            )
            raise DeviceError(reason, advice.BACKSLASH)
        if cell == "NULL" and place != self._place:
            raise DeviceError('"NULL" is the mark of a missing value', advice.NULL)
        return clean_cell(cell)

    def _identifier(self, row: list[str]) -> str:
        """Return the intended identifier. Raises DeviceError."""
        identifier = clean_identifier(row[self._place])
        if identifier.casefold() == self._name:
            raise DeviceError("the row is another header", advice.OTHER_HEADER)
        return identifier

    def _document(self, row: list[str], errors: list[DeviceError]) -> bytes:
        """Return the metadata in ``row`` as JSON text, empty if it has none."""
        metadata: dict[str, Any] = {}
        for place, column in self._columns:
            if cell := row[place]:
                try:
                    column.put(cell, metadata)
                except DeviceError as error:
                    errors.append(self._in_column(place, error))
        if self._have_documents:
            return bytes(metadata.get(METADATA, b""))
        try:
            return encode(metadata) if metadata else b""
        except RecursionError:
            reason = "the metadata has too many levels of nesting"
            errors.append(DeviceError(reason, advice.NESTING))
            return b""

    def _in_column(self, place: int, error: DeviceError) -> DeviceError:
        name = shorten(self._names[place])
        return DeviceError(f'column "{name}": {error.reason}', error.fix)
