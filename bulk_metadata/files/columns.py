r"""The columns of a table: member of the metadata and type of the value.

A cell is a string unless the header names another type: ``battery:number``,
``enabled:boolean``, ``tags:json``. A dot in the name nests, ``\.`` is a dot in a name.
"""

import re
from collections.abc import Callable
from typing import Any

from bulk_metadata.core.json_text import ANY_VALUE, InvalidJsonError, JsonText
from bulk_metadata.core.text import shorten
from bulk_metadata.files import advice
from bulk_metadata.files.cells import NULL_MARK, clean_cell
from bulk_metadata.files.device import DeviceError

# RFC 8259, 6.
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")

# In many languages, Excel writes a decimal comma: 3,70.
COMMA_NUMBER = re.compile(r"-?[0-9.]*,[0-9]+")

BOOLEANS = {"true": JsonText(b"true"), "false": JsonText(b"false")}

# A dot at the end or next to a space belongs to the name: "No.", "Temp. (°C)".
TEXT_DOT = re.compile(r"(?:^|[\s()\[\]])\.|\.(?:$|[\s()\[\]])")
# A dot or a backslash after a backslash belongs to the name.
SEPARATOR_OR_ESCAPE = re.compile(r"\\([.\\])|\.")
# No decoded text contains this surrogate.
SEPARATOR_MARK = "\ud800"


def parse_number(text: str) -> JsonText:
    """Return a number with all its digits. Raises DeviceError."""
    if not NUMBER.fullmatch(text):
        fix = advice.DECIMAL_POINT if COMMA_NUMBER.fullmatch(text) else advice.NUMBER
        raise DeviceError(f'expected a number, got "{shorten(text)}"', fix)
    return JsonText(text.encode())


def parse_boolean(text: str) -> JsonText:
    """Return true or false, which Excel writes in capitals. Raises DeviceError."""
    if (value := BOOLEANS.get(text.lower())) is None:
        reason = f'expected true or false, got "{shorten(text)}"'
        raise DeviceError(reason, advice.BOOLEAN)
    return value


def parse_json(text: str) -> JsonText:
    """Return a JSON value verbatim. Raises DeviceError."""
    try:
        return ANY_VALUE.decode(text)
    except RecursionError:
        reason, fix = "the JSON has too many levels of nesting", advice.NESTING
    except (InvalidJsonError, UnicodeEncodeError):
        clean_cell(text)
        reason, fix = f'expected JSON, got "{shorten(text)}"', advice.JSON_CELL
    raise DeviceError(reason, fix)


TYPES: dict[str, Callable[[str], object]] = {
    "string": str,
    "number": parse_number,
    "boolean": parse_boolean,
    "json": parse_json,
}


class Column:
    """A column with a member of the metadata."""

    def __init__(self, header: str) -> None:
        """Parse the header of the column. Raises DeviceError."""
        self.header = header
        name, colon, type_name = header.rpartition(":")
        if not colon:
            name, type_name = header, "string"
        self.type = type_name.strip().lower()
        if self.type not in TYPES:
            reason = (
                f'the column "{shorten(header)}" has the type "{shorten(type_name)}"'
            )
            raise DeviceError(f"{reason}, which is unknown", advice.COLUMN_TYPE)
        self._parse = TYPES[self.type]
        *self._parents, self._member = path = _path(name.strip())
        is_text = self.type == "string" and not self._parents
        #: The member, if its value is the text of the cell.
        self.text_member = self._member if is_text else None
        if not all(path):
            reason = f'the column "{shorten(header)}" has an empty name'
            raise DeviceError(reason, advice.COLUMN_NAME)

    def put(self, cell: str, metadata: dict[str, Any]) -> None:
        """Store the value of ``cell`` in ``metadata``. Raises DeviceError."""
        if self.type != "string":
            cell = cell.strip()
            if not cell or cell == NULL_MARK:
                return
        value = self._parse(cell)
        for parent in self._parents:
            metadata = metadata.setdefault(parent, {})
        metadata[self._member] = value

    def claim(self, tree: dict[str, Any]) -> None:
        """Store the column in ``tree``, which has the structure of the metadata. Raises
        DeviceError if another column has the same member."""
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
        names = f'"{shorten(found.header)}" and "{shorten(self.header)}"'
        reason = f"the columns {names} have the same member"
        raise DeviceError(reason, advice.SAME_COLUMN)


class Nameless(Column):
    """A column without a name, which must be empty."""

    def __init__(self) -> None:
        self.header = ""
        self.type = "string"

    def put(self, cell: str, metadata: dict[str, Any]) -> None:
        """Raise DeviceError."""
        reason = f'"{shorten(cell)}" is in a column without a name'
        raise DeviceError(reason, advice.NAMELESS)


def _path(name: str) -> list[str]:
    """Return the names of the nested members, the outermost first."""
    if "\\" not in name and TEXT_DOT.search(name) and ".." not in name.strip("."):
        return [name]
    marked = SEPARATOR_OR_ESCAPE.sub(lambda match: match[1] or SEPARATOR_MARK, name)
    return marked.split(SEPARATOR_MARK)
