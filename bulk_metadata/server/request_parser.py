"""The HTTP parser of gunicorn, on a RequestReader."""

import socket
from typing import Any

from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from bulk_metadata.server.request_reader import RequestReader


class BodyReader:
    """A reader of a body that raises OSError if the chunks are malformed."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes of the body, or fewer at its end."""
        try:
            return bytes(self._reader.read(size))
        except ParseException as error:
            raise OSError(f"malformed chunks: {error}") from error


class ClosingRequest(Request):
    """A request whose connection is closed if the body cannot be read to its end."""

    unreader: RequestReader
    body: Any
    _closes: bool | None = None

    def set_body_reader(self) -> None:
        """Determine how the body is framed."""
        super().set_body_reader()
        self.body.reader = BodyReader(self.body.reader)

    def should_close(self) -> bool:
        """Return whether the connection is closed after the response."""
        # gunicorn asks three times: for the header, after the response, and before the
        # next request.
        if self._closes is None:
            self._closes = super().should_close() or not self.unreader.discard(
                self.body
            )
        return self._closes


class Parser(RequestParser):
    """A parser of the requests of one connection."""

    mesg_class = ClosingRequest

    def __init__(
        self, cfg: Any, sock: socket.socket, client: Any, timeout: int
    ) -> None:
        super().__init__(cfg, sock, client)
        self.unreader: RequestReader = RequestReader(sock, timeout)
