"""The API's own body, {"devices": {...}}, with any number of devices.

Read piece by piece. Python's parser finds where a value ends; what is sent is the text
between, so that every digit of every number stays.
"""

import codecs
import json
import re
from collections.abc import Iterator
from itertools import count
from typing import BinaryIO

import msgspec

from bulk_metadata.core.json_text import ANY_VALUE
from bulk_metadata.files.device import Device, FileError, Problem
from bulk_metadata.files.lines import MAX_LINE_BYTES, NOT_UTF8, refuse_utf16

PIECE_BYTES = 256 * 1024

# A piece may end within a token, and the rest of it looks like an error, or like a
# number's end: 1e+ for one. Two escapes, \ud83d\ude9a, are the longest token.
TOKEN_LENGTH = 12

NO_SPACE = re.compile(r"[^ \t\n\r]")


def read_json_body(file: BinaryIO) -> Iterator[Device | Problem]:
    """Yield what the member "devices" says; others are passed over. Raises FileError
    where the JSON breaks, and for anything else than one such object."""
    text = Text(file)
    numbers = count(1)
    found = False
    for name in _members(text):
        if name != "devices":
            text.value()
            continue
        if found:
            raise FileError(text.line, 'a second "devices"')
        found = True
        if text.peek() != "{":
            raise FileError(text.line, "devices must be an object")
        for identifier in _members(text):
            line = text.line
            yield _device(next(numbers), line, identifier.strip(), text.value())
    if not found:
        raise FileError(text.line, 'there is no "devices"')
    if text.peek():
        raise FileError(text.line, "the object has ended, and something follows it")


def _members(text: "Text") -> Iterator[str]:
    """Yield the names of the members of an object. Whoever is given one reads its
    value."""
    text.expect("{")
    if text.peek() == "}":
        text.expect("}")
        return
    while True:
        if text.peek() != '"':
            raise FileError(text.line, "a member's name is expected")
        name: str = json.loads(text.value())
        text.expect(":")
        yield name
        if text.peek() == "}":
            break
        text.expect(",")
    text.expect("}")


def _device(number: int, line: int, identifier: str, value: str) -> Device | Problem:
    try:
        identifier.encode()
        return Device(number, line, identifier, bytes(ANY_VALUE.decode(value)))
    except msgspec.DecodeError as error:
        # Python's parser takes more than JSON allows, NaN for one.
        return Problem(number, line, identifier, f"metadata: {error}")
    except UnicodeEncodeError:
        return Problem(number, line, "", NOT_UTF8)


class Text:
    """The text of a file, of which a piece is held."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        # Its numbers stay text: Python would not take one of 5,000 digits.
        self._parser = json.JSONDecoder(parse_int=str, parse_float=str)
        self._text = ""
        self._position = 0
        self._is_whole = False
        #: The line that is being read, from 1 on.
        self.line = 1

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
            if not self._read_on(PIECE_BYTES):
                return ""

    def expect(self, character: str) -> None:
        """Read ``character``. Raises FileError if that is not what comes."""
        if self.peek() != character:
            raise FileError(self.line, f"{character!r} is expected")
        self._position += 1

    def value(self) -> str:
        """Read a JSON value, and return its text. Raises FileError if it is none."""
        self.peek()
        size = PIECE_BYTES
        while (end := self._end_of_value()) is None:
            if len(self._text) - self._position > MAX_LINE_BYTES:
                raise FileError(self.line, f"a value of over {MAX_LINE_BYTES} bytes")
            self._read_on(size)
            size *= 2  # so that a long one is not parsed over and over
        value = self._text[self._position : end]
        self.line += value.count("\n")
        self._position = end
        return value

    def _end_of_value(self) -> int | None:
        """Return where the value ends; None if more of the file may tell."""
        try:
            _, end = self._parser.raw_decode(self._text, self._position)
        except RecursionError:
            raise FileError(self.line, "nested too deeply") from None
        except json.JSONDecodeError as error:
            is_open = error.msg.startswith("Unterminated string")
            if self._is_whole or not (is_open or self._is_near_end(error.pos)):
                line = self.line + self._text.count("\n", self._position, error.pos)
                raise FileError(line, error.msg) from None
            return None
        return end if self._is_whole or not self._is_near_end(end) else None

    def _is_near_end(self, position: int) -> bool:
        return len(self._text) - position < TOKEN_LENGTH

    def _read_on(self, size: int) -> bool:
        """Hold up to ``size`` more bytes; tell whether there were any."""
        piece = self._file.read(size)
        if self.line == 1:
            refuse_utf16(piece)
        self._is_whole = not piece
        text = self._decoder.decode(piece, final=self._is_whole)
        self._text = self._text[self._position :] + text
        self._position = 0
        return not self._is_whole
