"""gunicorn's worker, taught that every answer is JSON: also to what is no request yet,
or not even HTTP, and never reaches the application."""

from contextlib import suppress
from http import HTTPStatus
from typing import Any

import msgspec
from gunicorn.http.errors import (
    ConfigurationProblem,
    ExpectationFailed,
    InvalidHeader,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.util import write_nonblock
from gunicorn.workers.gthread import ThreadWorker


class Worker(ThreadWorker):
    """The threaded worker, with its own way to refuse."""

    def handle_error(
        self, req: Any, client: Any, addr: Any, exc: BaseException
    ) -> None:
        """Answer the request that raised ``exc`` outside the application."""
        status, sentence = refusal(exc)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.exception("The request failed outside the application")
        body = msgspec.json.encode({"error": sentence})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "Connection: close\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with suppress(OSError):  # the client may be gone
            write_nonblock(client, head.encode() + body)


def refusal(error: BaseException) -> tuple[HTTPStatus, str]:
    """Return status and sentence for what gunicorn could not read."""
    match error:
        case InvalidHeader(hdr="X-API-KEY"):
            # Control characters in the key: it is as wrong as any other wrong key.
            return HTTPStatus.UNAUTHORIZED, "Invalid or missing API key"
        case LimitRequestLine():
            return HTTPStatus.REQUEST_URI_TOO_LONG, "Request line too long"
        case LimitRequestHeaders():
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Headers too large"
        case UnsupportedTransferCoding():
            return HTTPStatus.NOT_IMPLEMENTED, "Unsupported transfer coding"
        case ExpectationFailed():
            return HTTPStatus.EXPECTATION_FAILED, "Unsupported expectation"
        case ParseException() if not isinstance(error, ConfigurationProblem):
            return HTTPStatus.BAD_REQUEST, "Invalid HTTP request"
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error"
