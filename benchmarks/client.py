"""A client as light as can be, so that what is measured is the server."""

import re
import socket
from types import TracebackType

from tests.support.service import PATH

# Where an answer says how many devices it updated, however it is spaced.
UPDATED = re.compile(rb'"updated": ?(\d+)')
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Refused(Exception):
    """The answer was not 200 with a length; the message is its head."""


class Client:
    """A connection that is kept, for one call after another."""

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, body: bytes) -> int:
        """Send a request and return how many devices its answer says were updated.

        Raises Refused for an answer other than 200, and OSError if there is none; after
        either the connection is of no more use.
        """
        self._socket.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        head = bytes(received[:end])
        length = CONTENT_LENGTH.search(head)
        if b" 200 " not in head.partition(b"\r\n")[0] or length is None:
            raise Refused(head.decode())
        while len(received) < end + 4 + int(length[1]):
            received += self._receive()
        updated = UPDATED.search(received, end)
        return int(updated[1]) if updated else 0

    def _receive(self) -> bytes:
        piece = self._socket.recv(1 << 20)
        if not piece:
            raise ConnectionError("The server closed the connection.")
        return piece
