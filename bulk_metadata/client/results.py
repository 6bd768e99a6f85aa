"""The result file: what became of each device, in the order of the file."""

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import msgspec

from bulk_metadata.client.journal import Result

COLUMNS = ("line", "identifier", "deviceId", "status")

SUFFIXES = (".csv", ".ndjson", ".jsonl")


def write_results(results: Iterable[Result], path: Path) -> None:
    """Write ``results`` to ``path``, as its name says, in place of what was there.

    Whole or not at all. Raises OSError.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            _write_csv(results, file)
        else:
            _write_ndjson(results, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _write_csv(results: Iterable[Result], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(results)


def _write_ndjson(results: Iterable[Result], file: TextIO) -> None:
    for result in results:
        line = msgspec.json.encode(dict(zip(COLUMNS, result, strict=True)))
        file.write(line.decode() + "\n")
