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
from bulk_metadata.files.source import INVALID_BYTE, encoding_error

METADATA = "metadata"

# Excel's declaration of the separator, before the header.
SEPARATOR_LINE = re.compile(r'"?sep=([^\w"\r\n])"?\s*', re.IGNORECASE)


class Rows:
    """Converts the rows of a table to devices."""

    def __init__(self, names: Sequence[str], identifier_index: int) -> None:
        """Parse the ``names`` in the header. Raises DeviceError."""
        self._names = list(names)
        self._identifier_index = identifier_index
        self._name = names[identifier_index].casefold()
        columns = [*names[:identifier_index], *names[identifier_index + 1 :]]
        others = [name.casefold() for name in columns if name]
        #: Whether there is a column for metadata.
        self.have_metadata = bool(others)
        self._have_documents = METADATA in others
        if self._have_documents and len(others) > 1:
            reason = 'the table has the column "metadata" and other columns'
            raise DeviceError(reason, advice.METADATA_COLUMN)
        self._columns = list(self._parse_columns())
        self._json_indexes = [
            index for index, _, column in self._columns if column.type == "json"
        ]
        self._text_indexes = [
            index for index in range(len(names)) if index not in self._json_indexes
        ]
        # Lines of the first \N, and of the first other backslash.
        self._null_line = self._backslash_line = 0

    def _parse_columns(self) -> Iterator[tuple[int, str | None, Column]]:
        """Yield the index, the member that has the text of the cell, and the column."""
        tree: dict[str, Any] = {}
        for index, name in enumerate(self._names):
            if index != self._identifier_index and not name:
                yield index, None, Nameless()
            elif index != self._identifier_index:
                column = Column(f"{METADATA}:json" if self._have_documents else name)
                column.claim(tree)
                yield index, column.text_member, column

    def devices(
        self, rows: Iterable[tuple[int, list[str]]]
    ) -> Iterator[Device | Problem]:
        """Yield the devices of ``rows`` with their lines."""
        number = 1
        for line, row in rows:
            if item := self._device(number, line, row):
                yield item
                number += 1

    def _device(
        self, number: int, line: int, row: list[str]
    ) -> Device | Problem | None:
        """Return the device in ``row``, or None if it repeats the header."""
        errors: list[DeviceError] = []
        identifier = ""
        if len(row) != len(self._names) or may_be_special(self._text(row)):
            if _is_separator_line(row):
                return None
            try:
                row = self._cleaned(line, self._fit(row), errors)
            except DeviceError as error:
                return Problem(number, line, "", error.reason, error.fix)
        try:
            identifier = clean_identifier(row[self._identifier_index])
        except DeviceError as error:
            errors.append(error)
        # The length rules out most identifiers in less time.
        if len(identifier) == len(self._name) and identifier.casefold() == self._name:
            if [clean_name(cell) for cell in row] == self._names:
                return None
            errors.append(_other_header())
        document = self._document(row, errors)
        if errors:
            reason = "; ".join(error.reason for error in errors)
            fixes = dict.fromkeys(error.fix for error in errors)
            return Problem(number, line, identifier, reason, " ".join(fixes))
        return Device(number, line, identifier, document)

    def _text(self, row: list[str]) -> str:
        """Return the cells without the JSON, which may contain any characters."""
        if not self._json_indexes:
            return "".join(row)
        return "".join([row[index] for index in self._text_indexes])

    def _fit(self, row: list[str]) -> list[str]:
        """Return ``row`` with as many cells as the header. Raises DeviceError."""
        width = len(self._names)
        surplus = [cell for cell in row[width:] if cell]
        if len(row) >= width and not surplus:
            return row[:width]
        if self._name in (clean_name(cell).casefold() for cell in row):
            raise _other_header()
        reason = f"expected {counted(width, 'cell')} (as in the header), got {len(row)}"
        if surplus:
            if INVALID_BYTE.search(surplus[0]):
                raise encoding_error(surplus[0])
            reason += f'; surplus cell: "{shorten(surplus[0])}"'
        raise DeviceError(reason, advice.CELL_COUNT)

    def _cleaned(
        self, line: int, row: list[str], errors: list[DeviceError]
    ) -> list[str]:
        """Return the intended values of the cells, and an empty cell for each error."""
        cleaned = row.copy()
        for index in self._text_indexes:
            try:
                cleaned[index] = self._cleaned_cell(line, index, row[index])
            except DeviceError as error:
                errors.append(self._in_column(index, error))
                cleaned[index] = ""
        return cleaned

    def _cleaned_cell(self, line: int, index: int, cell: str) -> str:
        """Return the intended value of a cell. Raises DeviceError."""
        if cell == NULL_MARK:
            self._null_line = self._null_line or line
        elif "\\" in cell:
            self._backslash_line = self._backslash_line or line
        if self._null_line and self._backslash_line and "\\" in cell:
            reason = (
                f'"{shorten(cell)}" is ambiguous: line {self._null_line} '
                f"contains \\N, and line {self._backslash_line} another backslash"
            )
            raise DeviceError(reason, advice.BACKSLASH)
        if cell == "NULL" and index != self._identifier_index:
            raise DeviceError('"NULL" marks a missing value', advice.NULL)
        return clean_cell(cell)

    def _document(self, row: list[str], errors: list[DeviceError]) -> bytes:
        """Return the metadata in ``row`` as JSON text, empty if it has none."""
        metadata: dict[str, Any] = {}
        for index, text_member, column in self._columns:
            if cell := row[index]:
                if text_member is not None:
                    metadata[text_member] = cell
                    continue
                try:
                    column.put(cell, metadata)
                except DeviceError as error:
                    errors.append(self._in_column(index, error))
        if self._have_documents:
            return bytes(metadata.get(METADATA, b""))
        try:
            return encode(metadata) if metadata else b""
        except RecursionError:
            reason = "the metadata has too many levels of nesting"
            errors.append(DeviceError(reason, advice.NESTING))
            return b""

    def _in_column(self, index: int, error: DeviceError) -> DeviceError:
        name = shorten(self._names[index])
        return DeviceError(f'column "{name}": {error.reason}', error.fix)


def _is_separator_line(row: list[str]) -> bool:
    return not any(row[1:]) and bool(SEPARATOR_LINE.fullmatch(f"{clean_name(row[0])},"))


def _other_header() -> DeviceError:
    return DeviceError("the row is another header", advice.OTHER_HEADER)
