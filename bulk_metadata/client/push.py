"""One upload: a file, from its first byte to its result file."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bulk_metadata.client.batches import Batcher
from bulk_metadata.client.connection import TlsFiles
from bulk_metadata.client.journal import FINAL, Journal
from bulk_metadata.client.progress import Display
from bulk_metadata.client.report import Summary, write_results
from bulk_metadata.client.retry import make_retrying
from bulk_metadata.client.sender import Sender
from bulk_metadata.client.signals import StoppedError
from bulk_metadata.client.transport import Transport
from bulk_metadata.core.api_key import digest
from bulk_metadata.core.limits import MAX_DEVICES
from bulk_metadata.core.text import counted
from bulk_metadata.files.device import Device
from bulk_metadata.files.reader import Chunk, DeviceFile

CHANGED = "the file changed while it was read"


class InvalidFileError(Exception):
    """The file contains problems. The message is their number."""


@dataclass(frozen=True)
class Settings:
    """The settings of an upload. Sizes are in bytes."""

    url: str
    # Not included in the representation, which may be printed.
    api_key: str = field(repr=False)
    files: TlsFiles
    results: Path
    journal: Path
    resume: bool
    check: bool
    dry_run: bool
    batch_size: int
    max_body_bytes: int
    concurrency: int
    attempts: int


def push(
    file: DeviceFile,
    settings: Settings,
    summary: Summary,
    display: Display,
    stop: threading.Event,
) -> None:
    """Upload ``file`` until it is complete or ``stop`` is set. Complete ``summary``.

    Raises FileError, InvalidFileError, JournalError, RequestError, ValueError,
    sqlite3.Error, OSError, or StoppedError.
    """
    # Reports an invalid proxy or certificate before the file is read.
    transport = _transport(settings, stop)
    facts = _facts(file, settings, display, stop)
    chunks = file.read()
    journal = Journal(
        settings.journal,
        facts,
        resume=settings.resume,
        key_digest=digest(settings.api_key).hex(),
    )
    is_needed = not journal.is_empty()
    try:
        transport.set_request_id(journal.request_id)
        if settings.check and not journal.is_checked:
            check(file, chunks, journal, display, stop)
            chunks = file.read()
        is_needed = True
        summary.journal = settings.journal
        summary.request_id = journal.request_id
        try:
            summary.failure = _send(
                file, chunks, settings, transport, journal, display, stop
            )
        finally:
            counts = display.statistics.statuses = Counter(journal.counts())
        if file.source.has_changed:
            summary.failure = summary.failure or f"{CHANGED}, so results may be wrong"
        # Otherwise, the result file of an earlier run is kept.
        if not journal.is_empty():
            write_results(journal.results(), settings.results)
            summary.results = settings.results
        # With --no-check, devices that were not sent may not be listed.
        is_needed = stop.is_set() and not journal.is_checked
        is_needed |= bool(counts["not_sent"] or counts["refused"])
    finally:
        journal.close(delete=not is_needed)
        if not is_needed:
            summary.journal = None


def check(
    file: DeviceFile,
    chunks: Iterable[Chunk],
    journal: Journal,
    display: Display,
    stop: threading.Event,
) -> None:
    """Validate the complete file, and list its devices in the journal.

    Raises InvalidFileError after the problems are printed, and StoppedError once
    ``stop`` is set.
    """
    source = file.source
    display.begin("Checking", "bytes", source.size)
    with journal.checking():
        for chunk in chunks:
            journal.list(chunk.devices)
            for problem in chunk.problems:
                display.problem(problem)
            display.update(source.position)
            if stop.is_set():
                raise StoppedError
        for problem in journal.repeats():
            display.problem(problem)
        display.finish_problems()
        if source.has_changed:
            raise InvalidFileError(f"{CHANGED}. Nothing was sent")
        if display.problems:
            errors = counted(display.problems, "error")
            raise InvalidFileError(f"{errors}. Nothing was sent")
        if not journal.counts():
            raise InvalidFileError("The file contains no devices. Nothing was sent")


def _facts(
    file: DeviceFile, settings: Settings, display: Display, stop: threading.Event
) -> dict[str, str]:
    """Return the facts that a resumed run must share with the previous run."""

    source = file.source

    def on_piece() -> None:
        display.update(source.position)
        if stop.is_set():
            raise StoppedError

    display.begin("Reading", "bytes", source.size)
    return {
        "the file": source.digest(on_piece),
        "the format": file.description,
        "the address": settings.url,
        "whether it is a dry run": str(settings.dry_run),
    }


def _transport(settings: Settings, stop: threading.Event) -> Transport:
    return Transport(
        settings.url,
        settings.api_key,
        settings.files,
        dry_run=settings.dry_run,
        connections=settings.concurrency,
        stop=stop,
    )


def _send(
    file: DeviceFile,
    chunks: Iterator[Chunk],
    settings: Settings,
    transport: Transport,
    journal: Journal,
    display: Display,
    stop: threading.Event,
) -> str:
    """Send the remaining devices. Return the failure reason, or ""."""
    retrying = make_retrying(settings.attempts, stop, display.delay)
    key_digest = digest(settings.api_key).hex()
    if journal.key_digest != key_digest:
        if found := journal.found(MAX_DEVICES):
            retrying(transport.check_organization, found)
        else:
            journal.replace_key(key_digest)
    if settings.dry_run:
        retrying(transport.check_dry_run)
    counts = journal.counts()
    statuses = display.statistics.statuses
    statuses.update({status: counts.get(status, 0) for status in FINAL})
    total = sum(counts.values()) if journal.is_checked else None
    display.begin("Sending", "devices", total, statuses.total())
    display.log(f"Request ID: {journal.request_id}")
    sender = Sender(
        partial(retrying, transport.replace),
        Batcher(settings.batch_size, settings.max_body_bytes),
        journal,
        display,
        stop,
        dry_run=settings.dry_run,
    )
    devices = _remaining(file, chunks, journal.settled(), sender)
    sender.run(devices, settings.concurrency)
    display.finish_problems()
    return sender.failure


def _remaining(
    file: DeviceFile, chunks: Iterable[Chunk], settled: bytearray, sender: Sender
) -> Iterator[Device]:
    """Yield the devices to send, and record those that cannot be sent. Stop if the file
    changes."""
    for chunk in chunks:
        if file.source.has_changed:
            sender.fail(f"{CHANGED}, so the rest was not sent")
            return
        if chunk.problems:
            sender.skip(chunk.problems)
        for device in chunk.devices:
            if device.number >= len(settled) or not settled[device.number]:
                yield device
