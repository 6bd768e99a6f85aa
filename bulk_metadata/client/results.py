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


class Rows:
    """A file of rows that end with a line feed, which scripts expect.

    The csv module is not told so: it would leave carriage returns without quotes.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> None:
        """Write ``row``, as the csv module ends it."""
        self._file.write(row.removesuffix("\r\n") + "\n")


def _write_csv(results: Iterable[Result], file: TextIO) -> None:
    writer = csv.writer(Rows(file))
    writer.writerow(COLUMNS)
    writer.writerows(results)


def _write_ndjson(results: Iterable[Result], file: TextIO) -> None:
    for result in results:
        line = msgspec.json.encode(dict(zip(COLUMNS, result, strict=True)))
        file.write(line.decode() + "\n")
