"""A file's devices, whatever the format, and what is wrong with them."""

import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

from bulk_metadata.files.device import Device, FileError, Problem
from bulk_metadata.files.json_body import read_json_body
from bulk_metadata.files.ndjson import read_ndjson
from bulk_metadata.files.table import read_csv, read_tsv
from bulk_metadata.files.validation import judge

READERS: dict[str, Callable[[BinaryIO], Iterator[Device | Problem]]] = {
    "ndjson": read_ndjson,
    "json": read_json_body,
    "csv": read_csv,
    "tsv": read_tsv,
}

FORMATS = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}

# Devices that are looked at together.
CHUNK = 1000


class Chunk(NamedTuple):
    """Devices as they follow each other in the file, and what is wrong between them."""

    devices: list[Device]
    problems: list[Problem]


def read(file: BinaryIO, file_format: str, max_bytes: int) -> Iterator[Chunk]:
    """Yield the devices of ``file``, which is in one of FORMATS.

    A device that would need a body of more than ``max_bytes`` is a problem, too.
    """
    items = READERS[file_format](file)
    number = line = 0
    while True:
        devices: list[Device] = []
        problems: list[Problem] = []
        try:
            for item in islice(items, CHUNK):
                number, line = item.number, item.line
                if isinstance(item, Device):
                    devices.append(item)
                else:
                    problems.append(item)
        except FileError as error:
            problems.append(Problem(number + 1, error.line, "", str(error)))
        except (OSError, EOFError, zlib.error) as error:  # of gzip, most of them
            problems.append(Problem(number + 1, line + 1, "", f"cannot read: {error}"))
        if not devices and not problems:
            return
        yield _sort_out(devices, problems, max_bytes)


def _sort_out(devices: list[Device], problems: list[Problem], max_bytes: int) -> Chunk:
    found = list(judge(devices, max_bytes))
    if found:
        bad = {problem.number for problem in found}
        devices = [device for device in devices if device.number not in bad]
        problems = sorted(problems + found)
    return Chunk(devices, problems)
