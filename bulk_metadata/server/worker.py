"""gunicorn's worker, taught that every answer is JSON: also to what is no request yet,
or not even HTTP, and never reaches the application."""

import os
import select
import time
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
from gunicorn.workers import gthread

from bulk_metadata.api.response import HEADERS
from bulk_metadata.config import Config
from bulk_metadata.core.deadline import Watchdog
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

# A connection on which nothing comes gives its thread back after so many seconds, and
# waits with the idle ones. gunicorn has no setting for it, and its own 5 s let 200
# silent clients stop the service for minutes.
gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.1  # type: ignore[misc]  # it is said to be final

# How long a thread stays with a connection after an answer. For tools that send call
# after call: without the way back over the main thread each takes 0.1 ms less.
NEXT_REQUEST_MILLISECONDS = 2

# Seconds to read the rest of a refused request's body in.
DISCARD_SECONDS = 5


class Worker(gthread.ThreadWorker):
    """The threaded worker, with its own way to refuse, and a limit for each request."""

    def init_process(self) -> None:
        """Start serving."""
        config = Config.from_env(os.environ)
        self.watchdog = Watchdog("A request", config.request_timeout)
        # As much again as the limit: beyond that a client has no claim to an answer.
        self.discard_bytes = 2 * config.max_body_bytes
        super().init_process()

    def handle(self, conn: Any) -> Any:
        """Serve a request, and those that follow it at once."""
        kept = self._serve(conn)
        while kept is True and self._follows_at_once(conn):
            kept = self._serve(conn)
        return kept

    def _serve(self, conn: Any) -> Any:
        """Serve one request, from its first byte to the last of its answer."""
        with self.watchdog.watch(conn.sock):
            return super().handle(conn)

    def _follows_at_once(self, conn: Any) -> bool:
        """Tell if this thread should take the connection's next request itself.

        Only while there is a thread to spare, so that who comes next does not wait for
        it; and not if that request was read already, which gunicorn sees to.
        """
        if (
            not self.alive
            or self.nr_conns >= self.cfg.threads
            or conn.parser.unreader.buf.getvalue()
        ):
            return False
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return bool(poll.poll(NEXT_REQUEST_MILLISECONDS))

    def _cap_keepalive(self, deadline: float) -> None:
        """Close idle connections by ``deadline``, now that the worker is to end.

        gunicorn forgets those on which nothing has come yet: a silent one would keep
        a worker that takes no more calls for 30 s.
        """
        super()._cap_keepalive(deadline)  # type: ignore[misc]  # too new for the stubs
        for conn in self.pending_conns:
            conn.timeout = deadline

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Read what was left of the request; tell if the connection is kept.

        Of a refused body that may be all, and most clients read no answer before they
        have sent it. If the connection is closed on them they report a broken pipe, and
        never see why: gunicorn's own 64 kB are too little.
        """
        end = time.monotonic() + DISCARD_SECONDS
        with suppress(OSError, ParseException):
            whole = conn.parser.finish_body(deadline=end, max_bytes=self.discard_bytes)
            return bool(whole and keepalive)
        return False

    def handle_error(
        self, req: Any, client: Any, addr: Any, exc: BaseException
    ) -> None:
        """Answer the request that raised ``exc`` outside the application."""
        status, sentence = judge(exc)
        headers = dict(getattr(req, "headers", ()))
        context.begin(
            getattr(req, "method", ""),
            getattr(req, "path", ""),
            headers.get("X-REQUEST-ID"),
        )
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            context.exception = exc
        finish(status)
        body = encode({"error": sentence})
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "Connection: close\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"X-Request-ID: {context.request_id}\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
        )
        with suppress(OSError):  # the client may be gone
            write_nonblock(client, head.encode() + b"\r\n" + body)


def judge(error: BaseException) -> tuple[HTTPStatus, str]:
    """Return status and sentence for what gunicorn could not read."""
    match error:
        case InvalidHeader(hdr="X-API-KEY"):
            # Control characters in the key: it is as wrong as any other wrong key.
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
