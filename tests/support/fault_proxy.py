"""A proxy in front of the service that drops, delays and replaces its responses."""

import http.client
import json
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.service import Response

HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


@dataclass
class Request:
    """A request that reached the proxy."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    # time.monotonic() when the request was complete.
    start: float = field(default_factory=time.monotonic)

    @property
    def devices(self) -> dict[str, Any]:
        devices: dict[str, Any] = json.loads(self.body)["devices"]
        return devices


# Handles a request instead of forwarding it and its response.
Fault = Callable[["Handler"], None]
# Chooses a fault. One thread at a time calls it.
Choose = Callable[[Request], Fault]


class Handler(BaseHTTPRequestHandler):
    """A request and the ways to respond to it."""

    protocol_version = "HTTP/1.1"
    server: "FaultProxy"

    def setup(self) -> None:
        self.server.count_connection()
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if len(body) < size:
            self.close_connection = True  # The client was killed.
            return
        self.message = Request(self.path, dict(self.headers), body)
        with self.server.entered(self.message) as fault:
            try:
                fault(self)
            except OSError:
                self.close_connection = True  # The client disconnected.

    def forward(self, path: str | None = None) -> Response:
        """Send the request to the service, and return the response."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.target, timeout=60
        )
        try:
            connection.request(
                "POST",
                path or self.path,
                self.message.body,
                {**self.message.headers, "Accept-Encoding": "identity"},
            )
            response = connection.getresponse()
            return Response(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def reply(self, response: Response, sent: int | None = None) -> None:
        """Send ``response``, or ``sent`` bytes of its body before disconnecting."""
        self.send_response(response.status, None if response.status < 520 else "")
        for name, value in response.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body[:sent])
        self.close_connection = sent is not None


class FaultProxy(ThreadingHTTPServer):
    """Forwards requests at ``port`` of 127.0.0.1 to ``target``, except for faults."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.requests: list[Request] = []
        self.connections = 0
        self.max_concurrent = 0
        self.choose: Choose = lambda request: forwarded
        self._concurrent = 0
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return self.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *faults: Fault) -> None:
        """Apply each fault to one of the next requests, and forward the others."""
        rest = deque(faults)
        self.choose = lambda request: rest.popleft() if rest else forwarded

    def handle_error(self, *_: object) -> None:
        """Ignore clients that disconnected."""

    def count_connection(self) -> None:
        with self._lock:
            self.connections += 1

    @contextmanager
    def entered(self, request: Request) -> Iterator[Fault]:
        with self._lock:
            self.requests.append(request)
            self._concurrent += 1
            self.max_concurrent = max(self.max_concurrent, self._concurrent)
            fault = self.choose(request)
        try:
            yield fault
        finally:
            with self._lock:
                self._concurrent -= 1


@contextmanager
def run_proxy(
    target: int, context: ssl.SSLContext | None = None
) -> Iterator[FaultProxy]:
    """Run a proxy for the service at port ``target``, with TLS if there is a
    ``context``."""
    with FaultProxy(target) as proxy:
        if context:
            proxy.socket = context.wrap_socket(proxy.socket, server_side=True)
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def forwarded(handler: Handler) -> None:
    handler.reply(handler.forward())


def dropped_before(handler: Handler) -> None:
    """The request is lost."""
    handler.close_connection = True


def dropped_after(handler: Handler) -> None:
    """The request succeeds, and its response is lost."""
    handler.forward()
    handler.close_connection = True


def truncated(handler: Handler) -> None:
    """The request succeeds, and half of its response is lost."""
    response = handler.forward()
    handler.reply(response, len(response.body) // 2)


def garbled(handler: Handler) -> None:
    """The request succeeds, and its response is not HTTP."""
    handler.forward()
    handler.wfile.write(b"\0\xff garbage\r\n\r\n")
    handler.close_connection = True


def closed_after(handler: Handler) -> None:
    """The response is correct, but the connection is not kept alive."""
    handler.reply(handler.forward())
    handler.close_connection = True


def dry_run_ignored(handler: Handler) -> None:
    """The response of a service that does not know the parameter."""
    handler.reply(handler.forward(handler.path.partition("?")[0]))


def delayed(seconds: float, then: Fault = forwarded) -> Fault:
    def fault(handler: Handler) -> None:
        time.sleep(seconds)
        then(handler)

    return fault


def held(event: threading.Event, then: Fault = forwarded) -> Fault:
    """Wait until ``event`` is set."""

    def fault(handler: Handler) -> None:
        event.wait(60)
        then(handler)

    return fault


def response(status: int, body: Any = None, **headers: str) -> Fault:
    """Respond without the service. ``body`` is bytes or the message of an error."""
    if not isinstance(body, bytes):
        body = json.dumps({"error": body or f"status {status}"}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def fault(handler: Handler) -> None:
        handler.reply(Response(status, named, body))

    # For the test ids.
    fault.__name__ = f"{status} {body[:20].decode(errors='replace')}"
    return fault


def page(status: int, title: str, **headers: str) -> Fault:
    """Respond with a web page."""
    body = f"<html>\n<TITLE >\n {title}\n</TITLE></html>".encode()
    return response(status, body, Content_Type="text/html", **headers)


def altered(alter: Callable[[Any], Any]) -> Fault:
    """Alter the JSON of the response of the service."""

    def fault(handler: Handler) -> None:
        response = handler.forward()
        response.body = json.dumps(alter(response.json)).encode()
        handler.reply(response)

    return fault


# Transient faults, before or after the request took effect.
TRANSIENT = (
    dropped_before,
    dropped_after,
    truncated,
    garbled,
    closed_after,
    delayed(0.05),
    delayed(0.05, dropped_after),
    response(500),
    response(502, b"<html>Bad Gateway</html>"),
    response(503, Retry_After="0"),
    response(504, b""),
    response(429, Retry_After="nonsense"),
    response(522, b""),
    response(200, b'{"results": [{"identifier"'),
)


def at_random(chance: random.Random, share: float) -> Choose:
    """Apply TRANSIENT faults to a ``share`` of the requests, from 0 to 1."""
    return lambda request: (
        chance.choice(TRANSIENT) if chance.random() < share else forwarded
    )
