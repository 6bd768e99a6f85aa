"""The check: all that is wrong with the file, before anything is sent."""

import threading
from collections.abc import Iterable

from bulk_metadata.client.journal import Journal
from bulk_metadata.client.progress import Display
from bulk_metadata.client.signals import Stopped
from bulk_metadata.core.text import counted
from bulk_metadata.files.reader import Chunk
from bulk_metadata.files.source import Source


class Unsound(Exception):
    """The file cannot be sent as it is; the message says how much is wrong."""


def check(
    source: Source,
    chunks: Iterable[Chunk],
    journal: Journal,
    display: Display,
    stop: threading.Event,
) -> None:
    """Enter the devices of ``chunks``, read from ``source``, into the journal.

    Raises Unsound once all problems are shown, if there are any; and Stopped
    when ``stop`` is set.
    """
    display.begin("Checking", "bytes", source.size)
    with journal.checking():
        wrong = 0
        for chunk in chunks:
            journal.list(chunk.devices)
            wrong += len(chunk.problems)
            for problem in chunk.problems:
                display.problem(problem)
            display.update(source.position)
            if stop.is_set():
                raise Stopped
        for problem in journal.repeats():
            wrong += 1
            display.problem(problem)
        if wrong:
            raise Unsound(f"{counted(wrong, 'problem')}. Nothing was sent.")
        if not journal.counts():
            raise Unsound("There is no device. Nothing was sent.")
