"""The columns of a table: where their cells go in the metadata, and as what.

A cell is a string as it stands, unless the header says otherwise: ``battery:number``,
``enabled:boolean``, ``tags:json``. A dot in the name nests.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from bulk_metadata.core.json_text import ANY_VALUE, JsonText
from bulk_metadata.core.text import shorten

IDENTIFIER = "identifier"

# RFC 8259, 6.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

# Excel writes its own words in capitals.
BOOLEANS = {"true": JsonText(b"true"), "false": JsonText(b"false")}


class CellError(Exception):
    """What a cell's text is not."""


class HeaderError(Exception):
    """What is wrong with the header."""


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
    except msgspec.DecodeError as error:
        raise CellError(f"not JSON ({error})") from None
    except RecursionError:
        raise CellError("nested too deeply") from None


TYPES: dict[str, Callable[[str], object]] = {
    "string": str,
    "number": _number,
    "boolean": _boolean,
    "json": _json,
}


class Column:
    """A column that is a member of the metadata."""

    def __init__(self, header: str) -> None:
        """Read the header. Raises HeaderError."""
        name, colon, type_name = header.rpartition(":")
        if not colon:
            name, type_name = header, "string"
        self.header = header
        if type_name not in TYPES:
            raise self._error(f"has none of the types there are: {', '.join(TYPES)}")
        if header == "metadata":
            raise self._error(
                "is not needed: every column is a member of the metadata. For a member "
                'of that name call it "metadata:string"'
            )
        self._convert = TYPES[type_name]
        *self._parents, self._member = path = name.split(".")
        if not all(path):
            raise self._error("does not name a member")

    def _error(self, reason: str) -> HeaderError:
        return HeaderError(f'the column "{shorten(self.header)}" {reason}')

    def put(self, cell: str, metadata: dict[str, Any]) -> None:
        """Put the cell's value where it belongs. Raises CellError."""
        try:
            value = self._convert(cell)
        except CellError as error:
            where = f'column "{shorten(self.header)}"'
            raise CellError(f'{where}: "{shorten(cell)}" is {error}') from None
        for parent in self._parents:
            metadata = metadata.setdefault(parent, {})
        metadata[self._member] = value

    def claim(self, tree: dict[str, Any]) -> None:
        """Enter this column into ``tree``, which is as the metadata will be. Raises
        HeaderError if another one is there."""
        found: Any = tree
        for parent in self._parents:
            found = found.setdefault(parent, {})
            if isinstance(found, Column):
                break
        else:
            found = found.setdefault(self._member, self)
        if found is self:
            return
        while isinstance(found, dict):
            found = next(iter(found.values()))
        raise self._error(f'goes where the column "{shorten(found.header)}" goes')


class Nameless:
    """A column without a name, as Excel leaves them behind: its cells are empty."""

    def put(self, cell: str, metadata: dict[str, Any]) -> None:
        """Raise CellError."""
        raise CellError(f'"{shorten(cell)}" is in a column that has no name')


def columns_of(header: Sequence[str]) -> list[Column | Nameless | None]:
    """Return what each column is; the identifier's is None. Raises HeaderError."""
    if header.count(IDENTIFIER) != 1:
        found = shorten(", ".join(f'"{name}"' for name in header)) or "none"
        raise HeaderError(
            f'the header must have one column "{IDENTIFIER}"; its columns: {found}'
        )
    tree: dict[str, Any] = {}
    columns: list[Column | Nameless | None] = []
    for name in header:
        if name == IDENTIFIER:
            columns.append(None)
        elif name:
            column = Column(name)
            column.claim(tree)
            columns.append(column)
        else:
            columns.append(Nameless())
    return columns
