"""A push: one file, from its first byte to its result file."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bulk_metadata.client.batches import Batcher
from bulk_metadata.client.check import check
from bulk_metadata.client.journal import FINAL, Journal
from bulk_metadata.client.progress import Display
from bulk_metadata.client.results import write_results
from bulk_metadata.client.sender import Sender
from bulk_metadata.client.signals import Stopped
from bulk_metadata.client.transport import Api
from bulk_metadata.files.device import Device
from bulk_metadata.files.reader import Chunk, read
from bulk_metadata.files.source import Source


@dataclass(frozen=True)
class Plan:
    """What is to be done. Sizes are in bytes."""

    source: Source
    file_format: str
    url: str
    # Not to be shown, wherever a plan is.
    key: str = field(repr=False)
    results: Path
    journal: Path
    resume: bool
    check: bool
    dry_run: bool
    batch_size: int
    max_body_bytes: int
    concurrency: int
    attempts: int


def push(plan: Plan, display: Display, stop: threading.Event) -> str:
    """Do it, until ``stop`` is set. Return why it failed, "" if it did not.

    The tally of ``display`` has the counts in the end. Raises Unsound, JournalError,
    Hopeless, Unanswered, sqlite3.Error or OSError, and Stopped if ``stop`` is set
    before anything is sent.
    """
    journal = Journal(plan.journal, _facts(plan, display, stop), resume=plan.resume)
    is_done = False
    try:
        if plan.check and not journal.is_checked:
            check(plan.source, _chunks(plan), journal, display, stop)
        failure = _send(plan, journal, display, stop)
        if plan.source.has_changed:
            failure = "the file was changed meanwhile, so the results may be wrong"
        counts = display.tally.statuses = Counter(journal.counts())
        write_results(journal.results(), plan.results)
        is_done = not (stop.is_set() or counts["not_sent"] or counts["refused"])
    finally:
        journal.close(delete=is_done or journal.is_empty())
    return failure


def _facts(plan: Plan, display: Display, stop: threading.Event) -> dict[str, str]:
    """Return what a run that is resumed must have in common with the one before."""
    source = plan.source

    def on_piece() -> None:
        display.update(source.position)
        if stop.is_set():
            raise Stopped

    display.begin("Reading", "bytes", source.size)
    return {
        "the file": source.digest(on_piece),
        "the format": plan.file_format,
        "the address": plan.url,
        "whether it is a dry run": str(plan.dry_run),
    }


def _chunks(plan: Plan) -> Iterator[Chunk]:
    return read(plan.source.open(), plan.file_format, plan.max_body_bytes)


def _send(plan: Plan, journal: Journal, display: Display, stop: threading.Event) -> str:
    tally = display.tally
    api = Api(
        plan.url,
        plan.key,
        dry_run=plan.dry_run,
        connections=plan.concurrency,
        attempts=plan.attempts,
        stop=stop,
        on_retry=tally.retry,
    )
    if plan.dry_run:
        api.check_dry_run()
    counts = journal.counts()
    settled = journal.settled()
    tally.statuses.update({status: counts.get(status, 0) for status in FINAL})
    total = sum(counts.values()) if journal.is_checked else None
    display.begin("Sending", "devices", total, tally.statuses.total())
    batcher = Batcher(plan.batch_size, plan.max_body_bytes)
    sender = Sender(api, batcher, journal, display, stop)
    sender.send(_devices(_chunks(plan), settled, sender), plan.concurrency)
    return sender.failure


def _devices(
    chunks: Iterable[Chunk], settled: bytearray, sender: Sender
) -> Iterator[Device]:
    """Yield the devices that are to be sent; note what cannot be."""
    for chunk in chunks:
        if chunk.problems:
            sender.leave_out(chunk.problems)
        for device in chunk.devices:
            if device.number >= len(settled) or not settled[device.number]:
                yield device
