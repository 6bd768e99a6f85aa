"""A device in a file, and the errors that a file can contain."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from bulk_metadata.core.json_text import encode
from bulk_metadata.core.text import encodable, printable, shorten

# Errors with the same fix that are listed. The others are counted.
MAX_LISTED = 20


class Device(NamedTuple):
    """A device in a file."""

    # Position among the devices of the file, from 1.
    number: int
    # The line where the device begins, from 1.
    line: int
    # Trimmed in the same way as the API does.
    identifier: str
    # The metadata as JSON text. Empty if the file has no metadata for the device.
    document: bytes


class Problem(NamedTuple):
    """A device that cannot be sent or imported."""

    number: int
    # 0 for an error of the whole file.
    line: int
    # Empty if it is not known.
    identifier: str
    reason: str
    fix: str = ""

    @property
    def message(self) -> str:
        """The reason, then the fix."""
        return f"{self.reason}. {self.fix}" if self.fix else self.reason


class DeviceError(Exception):
    """An error of one device: a reason, and the action that corrects it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


class FileError(DeviceError):
    """An error after which the rest of the file cannot be read."""

    def __init__(self, line: int, reason: str, fix: str) -> None:
        super().__init__(reason, fix)
        self.line = line

    def as_problem(self) -> Problem:
        """Return the error as a problem."""
        return Problem(0, self.line, "", self.reason, self.fix)


def repeats(first_line: int) -> str:
    """Return the reason of a device whose identifier first occurs in that line."""
    return f"the same identifier as in line {first_line}"


class ProblemList:
    """Prints problems: the first of each kind as messages, the others as a number."""

    def __init__(
        self,
        name: str,
        write: Callable[[str], None],
        write_json: Callable[[bytes], None] | None = None,
    ) -> None:
        """``name`` is the name of the file. With ``write_json``, all problems are
        written as JSON."""
        self._name = name
        self._write = write
        self._write_json = write_json
        self._counts: Counter[str] = Counter()

    def add(self, problem: Problem) -> None:
        """Print ``problem``, unless many others have the same fix."""
        if self._write_json:
            message, identifier = map(encodable, (problem.message, problem.identifier))
            found = {"problem": message, "line": problem.line, "identifier": identifier}
            self._write_json(encode(found))
            return
        self._counts[problem.fix] += 1
        if not problem.fix or self._counts[problem.fix] <= MAX_LISTED:
            line = f", line {problem.line}" if problem.line else ""
            name = shorten(problem.identifier)
            device = f', device "{name}"' if name else ""
            self._write(printable(f"{self._name}{line}{device}: {problem.message}"))

    def finish(self) -> None:
        """Print the number of the problems that were not listed."""
        for fix, count in self._counts.items():
            if fix and count > MAX_LISTED:
                further = f"{count - MAX_LISTED:,} further errors of the same kind"
                self._write(f"{self._name}: {further}. {fix}")
        self._counts.clear()
