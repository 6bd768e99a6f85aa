"""A limit for waits that have none: libpq's for an answer, gunicorn's for a request.

A PostgreSQL that accepts and never answers (frozen, or behind a network that swallows
everything) keeps libpq waiting for ever; a client that sends a byte a minute does the
same to gunicorn. Shutting the socket down wakes whoever waits on it, as if the other
side had hung up. That costs a wait two entries in a dictionary; psycopg2's wait
callback, the other way to limit libpq, costs 2 ms for 1,000 devices.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

logger = logging.getLogger(__name__)

# Seconds between two looks: a wait lasts this much longer than its limit, at most.
INTERVAL = 0.5


class Watchdog:
    """Shuts sockets down that are waited on for longer than ``limit`` seconds."""

    def __init__(self, what: str, limit: float) -> None:
        self._what = what
        self._limit = limit
        self._waits: dict[object, tuple[socket.socket, float]] = {}
        self._is_looking = False

    @contextmanager
    def watch(self, watched: socket.socket) -> Iterator[None]:
        """Limit the wait on ``watched`` that happens inside."""
        # The thread is started by the first wait: threads do not survive a fork. Two
        # first waits at once may start two, which does no harm.
        if not self._is_looking:
            threading.Thread(target=self._look, name="watchdog", daemon=True).start()
            self._is_looking = True
        wait = object()
        self._waits[wait] = watched, time.monotonic() + self._limit
        try:
            yield
        finally:
            self._waits.pop(wait, None)

    def _look(self) -> None:
        while True:
            time.sleep(INTERVAL)
            now = time.monotonic()
            # A copy is taken in one step, whatever other threads do meanwhile.
            for wait, (watched, end) in self._waits.copy().items():
                if now > end:
                    self._waits.pop(wait, None)
                    logger.warning("Gave up on %s after %s s", self._what, self._limit)
                    # It may have come to its end meanwhile.
                    with suppress(OSError):
                        watched.shutdown(socket.SHUT_RDWR)
