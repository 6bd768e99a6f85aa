"""The reader of device files: devices of any format, validated."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import NamedTuple, TextIO

from bulk_metadata.core.json_text import encode
from bulk_metadata.core.jsonb import may_violate, violation
from bulk_metadata.core.limits import MAX_IDENTIFIER_BYTES
from bulk_metadata.files import Options, advice
from bulk_metadata.files.device import Device, DeviceError, FileError, Problem
from bulk_metadata.files.formats import check_file_type, encoding_of, format_of
from bulk_metadata.files.json_body import read_json
from bulk_metadata.files.source import READ_ERRORS, Source, open_text, read_error
from bulk_metadata.files.table import read_table

READERS: dict[str, Callable[[TextIO, Options], Iterator[Device | Problem]]] = {
    "ndjson": read_json,
    "json": read_json,
    "csv": read_table,
    "tsv": read_table,
}

# Options that determine the devices in a file.
DESCRIBED = ("encoding", "identifier_column", "allow_empty")

# Devices that are validated together.
CHUNK_DEVICES = 1000

# Size of a request for one device, without its identifier and metadata.
REQUEST_BYTES = len(b'{"devices":{:}}')

# Characters of an identifier whose UTF-8 is certainly short enough, and the bytes of
# the longest one in JSON.
MAX_ORDINARY_IDENTIFIER = MAX_IDENTIFIER_BYTES // 4
LONGEST_NAME_BYTES = len(encode("\1" * MAX_ORDINARY_IDENTIFIER))


class Chunk(NamedTuple):
    """Consecutive devices of a file, and the problems between them."""

    devices: list[Device]
    problems: list[Problem]


class DeviceFile:
    """A device file whose type and format are known."""

    def __init__(self, source: Source, options: Options) -> None:
        """Detect the file type. Raises FileError if it is not a device file, and
        UnknownFormatError if its name does not determine the format."""
        self.source = source
        head = source.head()
        check_file_type(head)
        encoding = encoding_of(head, options.encoding)
        self._format = options.file_format or format_of(
            source.name, options.default_format
        )
        self._options = replace(options, file_format=self._format, encoding=encoding)
        #: The format, and the options that differ from the default.
        self.description = " ".join(
            [
                self._format,
                *(
                    f"{name}={value!r}"
                    for name, value in vars(options).items()
                    if name in DESCRIBED and value != getattr(Options, name)
                ),
            ]
        )

    def read(self) -> Iterator[Chunk]:
        """Return the devices, from the beginning of the file. Raises FileError if the
        beginning is invalid. A later error is the last problem."""
        text = open_text(self.source.open(), self._options.encoding)
        try:
            items = READERS[self._format](text, self._options)
            first = next(items, None)
        except READ_ERRORS as error:
            raise read_error(0, error) from None
        return self._chunks(chain([first] if first else [], items))

    def _chunks(self, items: Iterator[Device | Problem]) -> Iterator[Chunk]:
        number = line = 0
        while True:
            devices: list[Device] = []
            problems: list[Problem] = []
            try:
                for item in islice(items, CHUNK_DEVICES):
                    number, line = item.number, item.line
                    if isinstance(item, Device):
                        devices.append(item)
                    else:
                        problems.append(item)
            except FileError as error:
                problems.append(_last_problem(number + 1, error))
            except READ_ERRORS as error:
                problem = _last_problem(number + 1, read_error(line + 1, error))
                problems.append(problem)
            if not devices and not problems:
                return
            yield _validated(devices, problems, self._options)


def _last_problem(number: int, error: FileError) -> Problem:
    reason = f"{error.reason}; the rest of the file was not checked"
    return Problem(number, error.line, "", reason, error.fix)


def _validated(
    devices: list[Device], problems: list[Problem], options: Options
) -> Chunk:
    """Return a chunk with the valid ``devices`` and all problems."""
    # One search in all of them takes a third of the time of a search in each.
    is_suspect = may_violate(b",".join([device.document for device in devices]))
    if not is_suspect and _are_ordinary(devices, options.max_bytes or sys.maxsize):
        return Chunk(devices, problems)
    valid = []
    for device in devices:
        if not device.document and options.allow_empty:
            device = device._replace(document=b"{}")
        try:
            _validate(device, options.max_bytes)
            valid.append(device)
        except DeviceError as error:
            number, line, identifier, _ = device
            problem = Problem(number, line, identifier, error.reason, error.fix)
            problems.append(problem)
    return Chunk(valid, sorted(problems))


def _are_ordinary(devices: list[Device], max_bytes: int) -> bool:
    """Return whether _validate accepts all ``devices``. False is not certain."""
    max_document = max_bytes - REQUEST_BYTES - LONGEST_NAME_BYTES
    are_ordinary = [
        0 < len(identifier) <= MAX_ORDINARY_IDENTIFIER
        and len(document) <= max_document
        and document.startswith(b"{")
        and "\0" not in identifier
        for _, _, identifier, document in devices
    ]
    return all(are_ordinary)


def _validate(device: Device, max_bytes: int | None) -> None:
    """Raise DeviceError if the API would reject ``device`` or cannot find it."""
    _, _, identifier, document = device
    if not identifier:
        raise DeviceError("the identifier is empty", advice.IDENTIFIER)
    if "\0" in identifier:
        reason = "the identifier must not contain the NUL character"
        raise DeviceError(reason, advice.NUL)
    if len(identifier.encode()) > MAX_IDENTIFIER_BYTES:
        reason = f"the identifier has more than {MAX_IDENTIFIER_BYTES:,} bytes"
        raise DeviceError(reason, advice.LONG_IDENTIFIER)
    if not document:
        raise DeviceError("the device has no metadata", advice.NO_METADATA)
    if document[0] != ord("{"):
        raise DeviceError("metadata must be a JSON object", advice.OBJECT)
    if limit := violation(document):
        raise DeviceError(f"metadata: {limit}", advice.STORABLE)
    size = REQUEST_BYTES + len(encode(identifier)) + len(document)
    if max_bytes and size > max_bytes:
        reason = f"the device needs a request of {size:,} bytes (limit: {max_bytes:,})"
        raise DeviceError(reason, advice.SIZE)
