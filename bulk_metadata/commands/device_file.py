"""Files of devices, CSV or NDJSON: read line by line, and judged as requests are."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click
import msgspec

from bulk_metadata.core.json_text import ANY_VALUE
from bulk_metadata.core.jsonb import violation

# A line, or a CSV cell, is held in memory: a quote that is never closed must not read
# in the whole file. As long as the longest body that the API takes by default.
MAX_LINE_BYTES = 10 * 1024 * 1024
csv.field_size_limit(MAX_LINE_BYTES)

# What the schema allows, so that an index entry can hold it.
MAX_IDENTIFIER_BYTES = 1024

NESTED_TOO_DEEPLY = "metadata: nested too deeply"

COLUMNS = {"identifier", "metadata"}


class DeviceFileError(click.ClickException):
    """A file that cannot be imported; the message names file, line and reason."""


class LineError(Exception):
    """What is wrong with which line."""

    def __init__(self, line: int, reason: object) -> None:
        super().__init__(f"line {line}: {reason}")


class Device(NamedTuple):
    """A device to create, and the line of the file that it begins on."""

    line: int
    identifier: str
    document: bytes


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A line of NDJSON."""

    identifier: str
    metadata: msgspec.Raw = msgspec.Raw(b"{}")


LINE = msgspec.json.Decoder(Line)


def read_devices(path: Path, file: BinaryIO) -> Iterator[Device]:
    """Yield the devices of ``file``; the name in ``path`` tells its format.

    Raises DeviceFileError at the first line that cannot be imported.
    """
    readers = {".csv": _read_csv, ".ndjson": _read_ndjson, ".jsonl": _read_ndjson}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DeviceFileError(
            f"{path}: the name must end in .csv, .ndjson or .jsonl, "
            "to tell how the file is to be read."
        )
    try:
        yield from map(_judge, reader(_text_lines(file)))
    except LineError as error:
        raise DeviceFileError(f"{path}, {error}") from None


def _text_lines(file: BinaryIO) -> Iterator[str]:
    line = 1
    while raw := file.readline(MAX_LINE_BYTES + 1):
        if len(raw) > MAX_LINE_BYTES:
            raise LineError(line, f"longer than {MAX_LINE_BYTES} bytes")
        try:
            yield raw.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError:
            raise LineError(line, "not UTF-8") from None
        line += 1


def _read_ndjson(lines: Iterable[str]) -> Iterator[Device]:
    for line, text in enumerate(lines, 1):
        if text.strip():
            try:
                members = LINE.decode(text)
            except msgspec.DecodeError as error:
                raise LineError(line, error) from None
            except RecursionError:
                raise LineError(line, NESTED_TOO_DEEPLY) from None
            yield Device(line, members.identifier, bytes(members.metadata))


def _read_csv(lines: Iterable[str]) -> Iterator[Device]:
    rows = csv.DictReader(lines, strict=True)
    # Where the row being read begins: a cell in quotes may hold line breaks.
    line = 1
    try:
        _judge_header(rows.fieldnames or [])
        line = rows.line_num + 1
        for row in rows:
            line = rows.line_num - sum(str(cell).count("\n") for cell in row.values())
            if None in row or None in row.values():
                raise LineError(line, "not as many cells as the header has")
            yield _csv_device(line, row["identifier"], row.get("metadata", ""))
            line = rows.line_num + 1
    except csv.Error as error:
        raise LineError(line, error) from None


def _judge_header(names: Sequence[str]) -> None:
    columns = sorted(names)
    if "identifier" not in columns or columns != sorted(COLUMNS.intersection(columns)):
        raise LineError(
            1,
            'the header must be "identifier", or "identifier" and "metadata", not '
            + ", ".join(f'"{name}"' for name in names),
        )


def _csv_device(line: int, identifier: str, metadata: str) -> Device:
    try:
        return Device(
            line, identifier, bytes(ANY_VALUE.decode(metadata.strip() or "{}"))
        )
    except msgspec.DecodeError as error:
        raise LineError(line, f"metadata: {error}") from None
    except RecursionError:
        raise LineError(line, NESTED_TOO_DEEPLY) from None


def _judge(device: Device) -> Device:
    """Return ``device``, its identifier trimmed, if PostgreSQL can hold it."""
    line, identifier, document = device
    identifier = identifier.strip()
    if not identifier:
        raise LineError(line, "the identifier is empty")
    if "\0" in identifier:
        raise LineError(line, "the identifier must not contain the NUL character")
    if len(identifier.encode()) > MAX_IDENTIFIER_BYTES:
        raise LineError(line, f"the identifier is over {MAX_IDENTIFIER_BYTES} bytes")
    if not document.startswith(b"{"):
        raise LineError(line, "metadata must be a JSON object")
    if reason := violation(document):
        raise LineError(line, f"metadata: {reason}")
    return Device(line, identifier, document)
