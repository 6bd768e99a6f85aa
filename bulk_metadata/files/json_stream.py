"""JSON text of any length, read in chunks.

Python's parser finds the end of each value. The text of the value remains unchanged, so
every digit of every number is kept.
"""

import json
import re
from typing import TextIO

from bulk_metadata.files import advice
from bulk_metadata.files.device import FileError
from bulk_metadata.files.source import CONTEXT, INVALID_BYTE, MAX_LENGTH

CHUNK_LENGTH = 262_144

# A chunk may end within a token, whose beginning looks like an error, or like the end
# of a number (1e+). This is the longest one, except for strings.
TOKEN_LENGTH = len("-Infinity")

NO_SPACE = re.compile(r"[^ \t\n\r]")


class JsonStream:
    """JSON text, of which a chunk is in memory."""

    def __init__(self, text: TextIO, start: str, line: int) -> None:
        """``start`` precedes the rest of ``text`` and begins in ``line``."""
        self._rest = text
        # Numbers remain text: Python does not convert one with 5,000 digits.
        self._parser = json.JSONDecoder(parse_int=str, parse_float=str)
        self._text = start
        self._position = 0
        self._is_complete = False
        #: The current line, from 1.
        self.line = line

    def peek(self) -> str:
        """Return the next character that is not white space; "" at the end."""
        while True:
            start = self._position
            if found := NO_SPACE.search(self._text, start):
                self._position = found.start()
            else:
                self._position = len(self._text)
            self.line += self._text.count("\n", start, self._position)
            if found:
                return found.group()
            if not self._read(CHUNK_LENGTH):
                return ""

    def expect(self, character: str) -> None:
        """Read ``character``. Raises FileError if another one follows."""
        if self.peek() != character:
            raise self.error(f'"{character}"')
        self._position += 1

    def error(self, expected: str) -> FileError:
        """Return the error that the text continues without ``expected``."""
        return self._error(expected) if self.peek() else self._incomplete()

    def _error(self, expected: str) -> FileError:
        while len(self._text) - self._position < CONTEXT and self._read(CHUNK_LENGTH):
            pass
        found = self._text[self._position :][:CONTEXT].partition("\n")[0]
        reason = f'expected {expected}, got "{INVALID_BYTE.sub("?", found)}"'
        return FileError(self.line, reason, advice.JSON_SYNTAX)

    def _incomplete(self) -> FileError:
        reason = "the file ends before its JSON is complete"
        return FileError(self.line, reason, advice.DAMAGED)

    def value(self) -> str:
        """Read a JSON value and return its text. Raises FileError."""
        self.peek()
        length = CHUNK_LENGTH
        while (end := self._end_of_value()) is None:
            if len(self._text) > MAX_LENGTH:
                reason = f"a value has more than {MAX_LENGTH:,} characters"
                raise FileError(self.line, reason, advice.LONG_LINE)
            self._read(length)
            length *= 2  # so that a long value is not parsed many times
        value = self._text[self._position : end]
        self.line += value.count("\n")
        self._position = end
        return value

    def _end_of_value(self) -> int | None:
        """Return the end of the value, or None if more text may determine it."""
        try:
            _, end = self._parser.raw_decode(self._text, self._position)
        except RecursionError:
            reason = "the JSON has too many levels of nesting"
            raise FileError(self.line, reason, advice.NESTING) from None
        except json.JSONDecodeError as error:
            is_open = error.msg.startswith("Unterminated string")
            if not self._is_complete and (is_open or self._is_near_end(error.pos)):
                return None
            if is_open or error.pos >= len(self._text.rstrip()):
                raise self._incomplete() from None
            self.line += self._text.count("\n", self._position, error.pos)
            self._position = error.pos
            raise self._error("a JSON value") from None
        return end if self._is_complete or not self._is_near_end(end) else None

    def _is_near_end(self, position: int) -> bool:
        return len(self._text) - position < TOKEN_LENGTH

    def _read(self, length: int) -> bool:
        """Read up to ``length`` more characters. Return whether there were any."""
        chunk = self._rest.read(length)
        self._is_complete = not chunk
        self._text = self._text[self._position :] + chunk
        self._position = 0
        return not self._is_complete
