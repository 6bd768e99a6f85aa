"""The report of a run: statistics, summary, exit code and result file."""

import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from bulk_metadata.client.journal import Result
from bulk_metadata.core.json_text import encode
from bulk_metadata.core.text import counted, encodable
from bulk_metadata.files.table import csv_writer

ALL_UPDATED = 0
FAILED = 1
SOME_NOT_FOUND = 3

# The statuses of devices: the word in messages, and the member of the JSON summary.
STATUSES = {
    "updated": ("updated", "updated"),
    "would_update": ("would be updated", "wouldUpdate"),
    "not_found": ("not found", "notFound"),
    "invalid": ("invalid", "invalid"),
    "refused": ("rejected", "refused"),
    "not_sent": ("not sent", "notSent"),
}

COLUMNS = ("line", "identifier", "deviceId", "status")
SUFFIXES = (".csv", ".ndjson", ".jsonl")


class Statistics:
    """The number of devices with each status, and of retries."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.retries = 0
        self._last_reason = ""
        self._lock = threading.Lock()

    def add_retry(self, reason: str) -> None:
        """Count a retry, from any thread."""
        with self._lock:
            self.retries += 1
            self._last_reason = reason

    def counts(self) -> list[tuple[int, str]]:
        """Return the number and the words of each status that occurs."""
        return [
            (self.statuses[status], words)
            for status, (words, _) in STATUSES.items()
            if self.statuses[status]
        ]

    def __str__(self) -> str:
        parts = [f"{number:,} {words}" for number, words in self.counts()]
        if self.retries:
            parts.append(f"{self.retries:,} retried ({self._last_reason})")
        return ", ".join(parts)


@dataclass
class Summary:
    """The outcome of a run."""

    name: str = ""
    statistics: Statistics = field(default_factory=Statistics)
    seconds: float = 0
    # The X-Request-ID of the upload, or "" if no request was sent.
    request_id: str = ""
    # The result file, if the run wrote one.
    results: Path | None = None
    # The journal, if the run can be resumed.
    journal: Path | None = None
    # The failure reason, or "".
    failure: str = ""
    # The signal that stopped the run, or 0.
    signal: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        statuses = self.statistics.statuses
        # A signal after the last response has no effect: the journal is deleted.
        if self.signal and (self.journal or statuses.total() == statuses["not_sent"]):
            return 128 + self.signal
        found = {status for status, number in statuses.items() if number}
        if self.failure or self.journal or found & {"invalid", "refused"}:
            return FAILED
        return SOME_NOT_FOUND if "not_found" in found else ALL_UPDATED

    @property
    def reason(self) -> str:
        """The reason for the exit code FAILED, for standard error."""
        return self.failure or ", ".join(
            f"{number:,} {words}"
            for number, words in self.statistics.counts()
            if words in ("invalid", "rejected", "not sent")
        )

    def as_text(self) -> str:
        """Return the summary for people."""
        devices = counted(self.statistics.statuses.total(), "device")
        lines = [f"{devices} of {self.name} in {self.seconds:,.1f} s"]
        lines += [
            f"{number:>13,} {words}" for number, words in self.statistics.counts()
        ]
        if self.statistics.retries:
            noun = "request" if self.statistics.retries == 1 else "requests"
            lines.append(f"{self.statistics.retries:>13,} {noun} retried")
        if self.results:
            lines.append(f"Results: {self.results}")
        lines.append(f"Request ID: {self.request_id}")
        if self.statistics.statuses["updated"]:
            command = f"flask undo ORGANIZATION --request {self.request_id}"
            lines.append(f"Undo: {command}")
        return "\n".join(lines)

    def as_json(self) -> str:
        """Return the summary for programs, in one line."""
        statuses = self.statistics.statuses
        summary = {
            "devices": statuses.total(),
            **{member: statuses[status] for status, (_, member) in STATUSES.items()},
            "retries": self.statistics.retries,
            "seconds": round(self.seconds, 3),
            "results": encodable(str(self.results or "")),
            "requestId": self.request_id,
            "resumable": self.journal is not None,
            "failure": encodable(self.failure),
        }
        return encode({"summary": summary}).decode()


def write_results(results: Iterable[Result], path: Path) -> None:
    """Replace the file at ``path`` atomically with ``results``, in the order of the
    input file. Raises OSError with a message."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            _write(results, file, is_csv=path.suffix == ".csv")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(f"Cannot write {path}: {error.strerror}") from None


def _write(results: Iterable[Result], file: TextIO, *, is_csv: bool) -> None:
    if is_csv:
        writer = csv_writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(results)
        return
    for result in results:
        line = encode(dict(zip(COLUMNS, result, strict=True)))
        file.write(f"{line.decode()}\n")
