"""An HTTP client with little overhead, so that the server determines the time."""

import re
import socket
from types import TracebackType

from bulk_metadata.core.limits import ENDPOINT

# The number of updated devices in a response, with or without spaces.
UPDATED = re.compile(rb'"updated": ?(\d+)')
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class ResponseError(Exception):
    """A response other than 200 with a length. The message is the response head."""


class Client:
    """A keep-alive connection that sends one request after another."""

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"POST {ENDPOINT} HTTP/1.1\r\nHost: 127.0.0.1\r\nx-api-key: {key}\r\n"
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

    def send(self, body: bytes) -> int:
        """Send a request and return the number of devices that it updated.

        Raises ResponseError for a status other than 200, and OSError if there is no
        response. The connection cannot be used after an error.
        """
        self._socket.sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        received = bytearray()
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._receive()
        head = bytes(received[:end])
        length = CONTENT_LENGTH.search(head)
        if b" 200 " not in head.partition(b"\r\n")[0] or length is None:
            raise ResponseError(head.decode())
        while len(received) < end + 4 + int(length[1]):
            received += self._receive()
        updated = UPDATED.search(received, end)
        return int(updated[1]) if updated else 0

    def _receive(self) -> bytes:
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("The server closed the connection.")
        return data
