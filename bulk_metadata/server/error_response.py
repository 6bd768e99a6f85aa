"""JSON error responses to requests that never reach the application."""

import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Any

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

from bulk_metadata.api.response import HEADERS
from bulk_metadata.core.errors import (
    INTERNAL_ERROR,
    INVALID_API_KEY,
    INVALID_HTTP,
    LARGE_HEADERS,
    LONG_REQUEST_LINE,
    UNSUPPORTED_EXPECTATION,
    UNSUPPORTED_TRANSFER_CODING,
)
from bulk_metadata.core.json_text import encode
from bulk_metadata.telemetry.context import context
from bulk_metadata.telemetry.instrumentation import finish


def send_error_response(
    client: socket.socket, request: Any, error: BaseException
) -> None:
    """Log ``error`` and send the response. ``request`` is None if it was not parsed."""
    status, message = status_and_message(error)
    headers = dict(getattr(request, "headers", ()))
    context.begin(
        getattr(request, "method", ""),
        getattr(request, "path", ""),
        headers.get("X-REQUEST-ID"),
    )
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        context.exception = error
    finish(status)
    body = encode({"error": message})
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-Request-ID: {context.request_id}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    )
    with suppress(OSError):  # the client has disconnected
        write_nonblock(client, head.encode() + b"\r\n" + body)


def status_and_message(error: BaseException) -> tuple[HTTPStatus, str]:
    """Return the status and the message for an error of gunicorn."""
    match error:
        case InvalidHeader(hdr="X-API-KEY"):
            # An API key with control characters is invalid like any other.
            return HTTPStatus.UNAUTHORIZED, INVALID_API_KEY
        case LimitRequestLine():
            return HTTPStatus.REQUEST_URI_TOO_LONG, LONG_REQUEST_LINE
        case LimitRequestHeaders():
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, LARGE_HEADERS
        case UnsupportedTransferCoding():
            return HTTPStatus.NOT_IMPLEMENTED, UNSUPPORTED_TRANSFER_CODING
        case ExpectationFailed():
            return HTTPStatus.EXPECTATION_FAILED, UNSUPPORTED_EXPECTATION
        case ParseException() if not isinstance(error, ConfigurationProblem):
            return HTTPStatus.BAD_REQUEST, INVALID_HTTP
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR, INTERNAL_ERROR
