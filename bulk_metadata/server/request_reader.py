"""Reading of requests: a head without blocking, a body with a timeout.

gunicorn reads both in a thread, so a client that sends half a head occupies a thread.
Here, the main thread of the worker collects the head, and a thread only parses it.
"""

import io
import logging
import re
import select
import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.unreader import SocketUnreader

logger = logging.getLogger(__name__)

# Bytes. The same as in deploy/nginx.conf; gunicorn's limits would allow 1.6 MB.
MAX_HEAD_BYTES = 65_536
END_OF_HEAD = b"\r\n\r\n"
# gunicorn rejects a head with a bare line feed, so the rest of it need not arrive.
BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")

# Bytes and seconds. If the application does not read the body, a body within these
# limits is discarded, and the connection is kept. Otherwise the connection is closed.
# The timeout allows for a body in the packet after the head.
MAX_DISCARDED_BYTES = 65_536
DISCARD_TIMEOUT = 0.01


class RequestReader(SocketUnreader):
    """The received bytes of a connection that are not parsed yet."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        super().__init__(sock)
        self.is_closed = False
        self.is_discarding = False
        self._timeout = timeout
        self._deadline: float | None = None

    def has_head(self, start: int = 0) -> bool:
        """Return whether the head in the buffer is complete, invalid or too long."""
        data = self.buf.getvalue()
        return (
            data.find(END_OF_HEAD, start) >= 0
            or BARE_LINE_FEED.search(data, start) is not None
            or len(data) >= MAX_HEAD_BYTES
        )

    def receive(self) -> bool:
        """Read the available bytes. Return whether the wait ends: the head is complete,
        or the client has disconnected."""
        size = self.buf.seek(0, io.SEEK_END)
        try:
            data = self.sock.recv(MAX_HEAD_BYTES - size)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self.is_closed = not data
        if self.is_closed or self.is_discarding:
            return self.is_closed
        self.buf.write(data)
        return self.has_head(max(0, size - len(END_OF_HEAD) + 1))

    def wait_for_head(self, milliseconds: int) -> bool:
        """Return whether the head is complete within ``milliseconds``."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not self.has_head() and poll.poll(milliseconds):
            self.receive()
        return self.has_head()

    def start_request(self) -> None:
        """Set the deadline for the body and the timeout for the response."""
        self._deadline = time.monotonic() + self._timeout
        self.sock.settimeout(self._timeout)

    def end_request(self) -> None:
        """Prevent a thread from waiting for the next head."""
        self._deadline = None
        self.is_discarding = False

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes of the body, or b"" if the client has disconnected.

        Raises TimeoutError at the deadline, and ends the connection: an error response
        would be wrong for a valid request, which the client can repeat.
        """
        if self._deadline is None:
            raise LimitRequestHeaders(f"over {MAX_HEAD_BYTES} bytes")
        # A timeout of 0 would mean "do not block".
        self.sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
        try:
            return super().chunk(size_hint)  # type: ignore[call-arg]  # not in stubs
        except TimeoutError:
            if not self.is_discarding:
                logger.warning("A request body timed out after %s s", self._timeout)
                self.end_connection()
            raise
        finally:
            self.sock.settimeout(self._timeout)

    def discard(self, body: Any) -> bool:
        """Read the rest of ``body`` if it is short. Return whether this succeeded."""
        if body.failed:
            return False
        self.is_discarding = True
        self._deadline = time.monotonic() + DISCARD_TIMEOUT
        with suppress(OSError):
            return len(body.read(MAX_DISCARDED_BYTES)) < MAX_DISCARDED_BYTES
        return False

    def end_connection(self) -> None:
        """Notify the client that no response follows, and discard its data."""
        self.is_discarding = True
        self.buf = io.BytesIO()
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
