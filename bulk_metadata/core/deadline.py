"""A timeout for waits on a socket that have no timeout themselves.

libpq waits without limit for a server that accepts a statement and never responds.
Shutting down the socket ends the wait, as if the server had disconnected. A wait costs
two operations on a dictionary; a wait callback of psycopg2, the alternative, costs 2 ms
for 1,000 devices.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

logger = logging.getLogger(__name__)

# Seconds between two checks. A wait exceeds its timeout by up to this time.
INTERVAL = 0.5


class Watchdog:
    """A thread that shuts down sockets after ``timeout`` seconds of waiting."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._waits: dict[object, tuple[socket.socket, float]] = {}
        self._is_running = False

    @contextmanager
    def watch(self, watched: socket.socket) -> Iterator[None]:
        """Limit the wait on ``watched`` in the body of the ``with`` statement."""
        # The first wait starts the thread, because threads do not survive a fork. Two
        # concurrent first waits may start two threads, which is harmless.
        if not self._is_running:
            threading.Thread(target=self._run, name="watchdog", daemon=True).start()
            self._is_running = True
        wait = object()
        self._waits[wait] = watched, time.monotonic() + self._timeout
        try:
            yield
        finally:
            self._waits.pop(wait, None)

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            now = time.monotonic()
            # The copy is atomic, so other threads may add and remove waits.
            for wait, (watched, end) in self._waits.copy().items():
                if now > end:
                    self._waits.pop(wait, None)
                    logger.warning(
                        "PostgreSQL did not respond within %s s", self._timeout
                    )
                    # The wait may have ended, and the socket may be closed.
                    with suppress(OSError):
                        watched.shutdown(socket.SHUT_RDWR)
