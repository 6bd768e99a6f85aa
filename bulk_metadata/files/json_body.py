"""JSON: the request body of the API, an array of devices, or a sequence of devices."""

import json
import re
from collections.abc import Generator, Iterator
from itertools import chain, count
from typing import TextIO

from bulk_metadata.core.json_text import ANY_VALUE, MEMBERS, InvalidJsonError
from bulk_metadata.core.text import shorten
from bulk_metadata.files import Options, advice
from bulk_metadata.files.device import Device, FileError, Problem
from bulk_metadata.files.json_stream import JsonStream
from bulk_metadata.files.ndjson import parse_device, read_ndjson
from bulk_metadata.files.source import (
    BYTE_ORDER_MARK,
    INVALID_BYTE,
    MAX_LENGTH,
    encoding_error,
    long_line,
    read_lines,
)

# Characters of the first line, which determines whether each device is on one line.
FIRST_LINE_LENGTH = 65_536

# The first line of a value that continues on the next line.
CONTINUED = re.compile(r'.*[\[{,:]\s*|\s*\{\s*"devices".*', re.DOTALL)


def read_json(text: TextIO, options: Options) -> Iterator[Device | Problem]:
    """Return the devices in JSON of any structure. Raises FileError, immediately if the
    beginning is not JSON."""
    line, first = 0, "\n"
    while first.isspace():
        line += 1
        first = text.readline(FIRST_LINE_LENGTH).lstrip(BYTE_ORDER_MARK)
    if not first.lstrip().startswith(("{", "[")):
        reason = f'expected a JSON object, got "{shorten(first.strip())}"'
        raise FileError(line, INVALID_BYTE.sub("?", reason), advice.NO_JSON)
    if not _is_device(first, options.file_format == "ndjson"):
        return _read_values(JsonStream(text, first, line))
    if not first.endswith(("\n", "\r")):
        first += text.readline(MAX_LENGTH)
    if len(first) > MAX_LENGTH:
        raise long_line(line)
    return read_ndjson(chain([first], read_lines(text)), line)


def _is_device(line: str, is_ndjson: bool) -> bool:
    """Return whether ``line`` is a device, not the beginning of another value."""
    if line.lstrip().startswith("["):
        return False
    try:
        return "devices" not in MEMBERS.decode(INVALID_BYTE.sub("?", line))
    except RecursionError:
        return is_ndjson
    except InvalidJsonError:
        return is_ndjson and not CONTINUED.fullmatch(line)


def _read_values(stream: JsonStream) -> Iterator[Device | Problem]:
    numbers = count(1)
    if stream.peek() == "[":
        yield from _array(stream, numbers)
    else:
        is_body = yield from _first_object(stream, numbers)
        while not is_body and stream.peek() == "{":
            line = stream.line
            yield parse_device(next(numbers), line, stream.value())
    if stream.peek():
        raise stream.error("the end of the file")


def _first_object(
    stream: JsonStream, numbers: Iterator[int]
) -> Generator[Device | Problem, None, bool]:
    """Yield the devices in the first object: the request body or a device. Return
    whether it is the request body."""
    line, is_body, members = stream.line, False, dict[str, str]()
    for name in _members(stream):
        if name != "devices":
            members[name] = stream.value()
            continue
        if is_body:
            reason = 'the member "devices" occurs twice'
            raise FileError(stream.line, reason, advice.JSON_BODY)
        is_body = True
        if stream.peek() == "[":
            yield from _array(stream, numbers)
        else:
            yield from _body(stream, numbers)
    if not is_body and "identifier" not in members:
        reason = 'the object has no member "devices" or "identifier"'
        raise FileError(line, reason, advice.JSON_BODY)
    if not is_body:
        texts = (f"{json.dumps(name)}:{value}" for name, value in members.items())
        yield parse_device(next(numbers), line, f"{{{','.join(texts)}}}")
    return is_body


def _body(stream: JsonStream, numbers: Iterator[int]) -> Iterator[Device | Problem]:
    """Yield the members of the object "devices"."""
    if stream.peek() != "{":
        raise stream.error("an object with the devices")
    for identifier in _members(stream):
        line = stream.line
        yield _device(next(numbers), line, identifier.strip(), stream.value())


def _array(stream: JsonStream, numbers: Iterator[int]) -> Iterator[Device | Problem]:
    """Yield the devices in an array."""
    stream.expect("[")
    while stream.peek() != "]":
        line = stream.line
        yield parse_device(next(numbers), line, stream.value())
        if stream.peek() != "]":
            stream.expect(",")
    stream.expect("]")


def _members(stream: JsonStream) -> Iterator[str]:
    """Yield the names of the members of an object. The consumer reads each value."""
    stream.expect("{")
    while stream.peek() != "}":
        if stream.peek() != '"':
            raise stream.error("a name in double quotes")
        name: str = json.loads(stream.value())
        stream.expect(":")
        yield name
        if stream.peek() != "}":
            stream.expect(",")
    stream.expect("}")


def _device(number: int, line: int, identifier: str, value: str) -> Device | Problem:
    if INVALID_BYTE.search(identifier + value):
        error = encoding_error(identifier + value)
        return Problem(number, line, "", error.reason, error.fix)
    try:
        identifier.encode()
        return Device(number, line, identifier, bytes(ANY_VALUE.decode(value)))
    except (InvalidJsonError, UnicodeEncodeError):
        # Python's parser accepts more than JSON allows: NaN, and lone surrogates.
        text = shorten(f"{identifier!a}: {value}")
        reason = f"{text} is not valid JSON"
        return Problem(number, line, "", reason, advice.JSON_SYNTAX)
