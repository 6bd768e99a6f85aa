"""A device of a file, and what can be wrong with it."""

from typing import NamedTuple


class Device(NamedTuple):
    """What a file says of a device."""

    # Its place among the file's devices, from 1 on.
    number: int
    # The line that it begins on, from 1 on.
    line: int
    # Trimmed, as the API trims it.
    identifier: str
    # The metadata as JSON text.
    document: bytes


class Problem(NamedTuple):
    """Why something in the file cannot be sent."""

    number: int
    line: int
    # As far as it is known.
    identifier: str
    reason: str


class FileError(Exception):
    """From ``line`` on nothing can be read any more."""

    def __init__(self, line: int, reason: object) -> None:
        super().__init__(f"{reason}; nothing can be read from here on")
        self.line = line
