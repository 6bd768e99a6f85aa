"""A gunicorn worker whose threads never wait for a client that sends nothing.

The poller of the main thread collects the head of each request. A thread serves the
connection when the head is complete. After the last response, the poller discards the
data that arrives until the client closes the connection. If the worker closed it first,
a client that is still sending would lose the response.
"""

import os
import selectors
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn.workers import gthread

from bulk_metadata.config import Config
from bulk_metadata.server.error_response import send_error_response
from bulk_metadata.server.request_parser import Parser

# Time that a thread waits for the next request of its connection. If a client sends one
# request after another, this saves 0.1 ms per request: the poller is not involved.
NEXT_REQUEST_MILLISECONDS = 2

# Seconds before a worker accepts a connection while it has one for each thread, so that
# another worker can accept it. Otherwise, one worker may get a whole burst.
ACCEPT_DELAY = 0.001

# Waiting connections stay open for this time after the shutdown signal, as in gunicorn.
SHUTDOWN_SECONDS = 2


class Worker(gthread.ThreadWorker):
    """A threaded worker that waits for clients in its main thread."""

    def init_process(self) -> None:
        """Read the settings and start the worker."""
        self.request_timeout = Config.from_env(os.environ).request_timeout
        # gunicorn reads 25 settings per request. An attribute is found faster than a
        # setting that Config.__getattr__ looks up.
        values = {name: setting.get() for name, setting in self.cfg.settings.items()}
        vars(self.cfg).update(values)
        super().init_process()

    def accept(self, listener: Any) -> None:
        """Accept a connection. At a limit, close the one that waits longest."""
        if self.nr_conns >= self.worker_connections - 1:
            self._expire_oldest()
        in_use = self.nr_conns - len(self.keepalived_conns)
        if self.cfg.workers > 1 and in_use >= self.cfg.threads:
            time.sleep(ACCEPT_DELAY)
        try:
            super().accept(listener)
        except OSError:  # no file descriptor is available
            self._expire_oldest()

    def _expire_oldest(self) -> None:
        """Let gunicorn close the oldest connection without a complete head, preferably
        a new one, as soon as the current events are processed."""
        with suppress(IndexError):
            (self.pending_conns or self.keepalived_conns)[0].timeout = 0.0

    def enqueue_req(self, conn: Any) -> None:
        """Serve the next request of ``conn`` in a thread if its head is complete."""
        if conn.parser is None:
            conn.parser = Parser(self.cfg, conn.sock, conn.client, self.request_timeout)
            conn.data_ready = True  # gunicorn would wait for data in the thread
        reader = conn.parser.unreader
        conn.sock.setblocking(False)
        if reader.has_head() or (reader.receive() and not reader.is_closed):
            super().enqueue_req(conn)
        elif reader.is_closed:
            self.nr_conns -= 1
            conn.close()
        else:
            self._wait(conn)

    def _wait(self, conn: Any) -> None:
        """Let the poller wait for ``conn``, for ``keepalive`` seconds."""
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(
            conn.sock,
            selectors.EVENT_READ,
            partial(self.on_pending_socket_readable, conn),
        )
        if not self.alive:
            self._cap_keepalive(time.monotonic() + SHUTDOWN_SECONDS)

    def on_pending_socket_readable(self, conn: Any, client: Any) -> None:
        """Continue to read the head of a connection, or to discard its data."""
        if conn.parser.unreader.receive():
            super().on_pending_socket_readable(conn, client)

    def handle(self, conn: Any) -> Any:
        """Serve a request in a thread, and further ones that follow immediately."""
        is_kept = super().handle(conn)
        while is_kept and self._next_request_follows(conn):
            is_kept = super().handle(conn)
        return is_kept

    def _next_request_follows(self, conn: Any) -> bool:
        """Return whether this thread should serve the next request of ``conn``, too:
        only while there is a thread for each connection with a request."""
        waiting = len(self.pending_conns) + len(self.keepalived_conns)
        if not self.alive or self.nr_conns - waiting > self.cfg.threads:
            return False
        return bool(conn.parser.unreader.wait_for_head(NEXT_REQUEST_MILLISECONDS))

    def handle_request(self, req: Any, conn: Any) -> bool:
        """Serve a request. REQUEST_TIMEOUT applies to the client: to the body and to
        the response, but not to the time that the application takes."""
        conn.parser.unreader.start_request()
        try:
            return bool(super().handle_request(req, conn))
        except TimeoutError:
            self.log.warning("A response timed out after %s s", self.request_timeout)
            return False
        finally:
            conn.parser.unreader.end_request()

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Wait for the next request, or for the client to close the connection."""
        if fs.exception() is None and not fs.result():
            conn.sock.setblocking(False)
            conn.parser.unreader.end_connection()
            self._wait(conn)
        else:
            super().finish_request(conn, fs)

    def _cap_keepalive(self, deadline: float) -> None:
        """Limit all waits of a worker that shuts down. gunicorn omits new connections,
        and a silent one would delay the shutdown by ``keepalive`` seconds."""
        super()._cap_keepalive(deadline)  # type: ignore[misc]  # missing in the stubs
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout or 0.0, deadline)

    def handle_error(
        self, req: Any, client: Any, addr: Any, exc: BaseException
    ) -> None:
        """Send a JSON error response."""
        send_error_response(client, req, exc)
