"""A timeout for waits on a socket that have no timeout themselves.

libpq waits without limit for a server that accepts a statement and never responds.
Shutting down the socket ends the wait, as if the server had disconnected. A wait costs
two operations on a set; a wait callback of psycopg2, the alternative, costs 2 ms
for 1,000 devices.
"""

import logging
import socket
import threading
import time
from contextlib import suppress

logger = logging.getLogger(__name__)

# Seconds between two checks. A wait exceeds its timeout by up to this time.
INTERVAL = 0.5


class Wait:
    """A wait on a socket until ``end``, in monotonic time."""

    def __init__(self, watched: socket.socket, end: float, waits: "set[Wait]") -> None:
        self.watched = watched
        self.end = end
        self._waits = waits

    def __enter__(self) -> None:
        self._waits.add(self)

    def __exit__(self, *_: object) -> None:
        self._waits.discard(self)


class Watchdog:
    """A thread that shuts down sockets after ``timeout`` seconds of waiting."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waits: set[Wait] = set()
        self._is_running = False

    def watch(self, watched: socket.socket) -> Wait:
        """Return a context manager that limits a wait on ``watched`` in its body."""
        # The first wait starts the thread, because threads do not survive a fork. Two
        # concurrent first waits may start two threads, which is harmless.
        if not self._is_running:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()
            self._is_running = True
        return Wait(watched, time.monotonic() + self._timeout, self._waits)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            now = time.monotonic()
            # The copy is atomic, so other threads may add and remove waits.
            for wait in self._waits.copy():
                if now > wait.end:
                    self._waits.discard(wait)
                    logger.warning(
                        "PostgreSQL did not respond within %s s", self._timeout
                    )
                    # The wait may have ended, and the socket may be closed.
                    with suppress(OSError):
                        wait.watched.shutdown(socket.SHUT_RDWR)
