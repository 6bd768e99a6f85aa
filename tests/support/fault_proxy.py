"""A proxy before the service that loses, delays and replaces what goes through it."""

import http.client
import json
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.service import Answer

# Said by each hop for itself.
HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


@dataclass
class Call:
    """A call that reached the proxy."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    # time.monotonic() when it was there.
    start: float
    # What the service answered, if it was asked.
    answer: Answer | None = field(default=None, repr=False)

    @property
    def devices(self) -> dict[str, Any]:
        devices: dict[str, Any] = json.loads(self.body)["devices"]
        return devices


# What is done with a call, instead of passing it on and its answer back.
Fault = Callable[["Exchange"], None]
# Chooses one. Asked by one thread at a time.
Choose = Callable[[Call], Fault]


class Exchange(BaseHTTPRequestHandler):
    """A call and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: "Proxy"

    def setup(self) -> None:
        self.server.count_connection()
        super().setup()

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if len(body) < size:
            return self.hang_up()  # the client was killed
        self.call = Call(self.path, dict(self.headers), body, time.monotonic())
        with self.server.entered(self.call) as fault:
            try:
                fault(self)
            except OSError:
                self.close_connection = True  # the client is gone

    def forward(self, path: str | None = None) -> Answer:
        """Ask the service."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.target, timeout=60
        )
        try:
            connection.request(
                "POST", path or self.path, self.call.body, dict(self.call.headers)
            )
            response = connection.getresponse()
            answer = Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()
        self.call.answer = answer
        return answer

    def reply(self, answer: Answer, sent: int | None = None) -> None:
        """Answer with ``answer``, or only so many bytes of its body, and hang up."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[:sent])
        self.close_connection = sent is not None

    def hang_up(self) -> None:
        self.close_connection = True


class Proxy(ThreadingHTTPServer):
    """Passes calls at ``port`` of 127.0.0.1 on to ``target``, but for the faults."""

    daemon_threads = True
    # As many calls at once as a test likes.
    request_queue_size = 128

    def __init__(self, target: int) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.target = target
        self.calls: list[Call] = []
        self.connections = 0
        #: The most calls that were there at one time.
        self.most = 0
        self.choose: Choose = lambda call: passed_on
        self._now = 0
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return self.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def script(self, *faults: Fault) -> None:
        """Treat the next calls like this, each by one, and others as usual."""
        rest = deque(faults)
        self.choose = lambda call: rest.popleft() if rest else passed_on

    def handle_error(self, *_: object) -> None:
        """Pass over clients that are gone."""

    def count_connection(self) -> None:
        with self._lock:
            self.connections += 1

    @contextmanager
    def entered(self, call: Call) -> Iterator[Fault]:
        with self._lock:
            self.calls.append(call)
            self._now += 1
            self.most = max(self.most, self._now)
            fault = self.choose(call)
        try:
            yield fault
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def run_proxy(target: int) -> Iterator[Proxy]:
    """Run one before the service at that port."""
    with Proxy(target) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def passed_on(exchange: Exchange) -> None:
    exchange.reply(exchange.forward())


def dropped_before(exchange: Exchange) -> None:
    """The call is lost."""
    exchange.hang_up()


def dropped_after(exchange: Exchange) -> None:
    """The call is done, and its answer lost."""
    exchange.forward()
    exchange.hang_up()


def halved(exchange: Exchange) -> None:
    """The call is done, and half of its answer lost."""
    answer = exchange.forward()
    exchange.reply(answer, len(answer.body) // 2)


def garbled(exchange: Exchange) -> None:
    """The call is done, and what comes back is no HTTP."""
    exchange.forward()
    exchange.wfile.write(b"\0\xff garbage\r\n\r\n")
    exchange.hang_up()


def closed_later(exchange: Exchange) -> None:
    """All is well, but the connection that should be kept is not."""
    exchange.reply(exchange.forward())
    exchange.hang_up()


def unaware(exchange: Exchange) -> None:
    """What a service says that does not know what a dry run is."""
    exchange.reply(exchange.forward(exchange.path.partition("?")[0]))


def delayed(seconds: float, then: Fault = passed_on) -> Fault:
    def fault(exchange: Exchange) -> None:
        time.sleep(seconds)
        then(exchange)

    return fault


def held(event: threading.Event, then: Fault = passed_on) -> Fault:
    """Nothing happens until ``event`` is set."""

    def fault(exchange: Exchange) -> None:
        event.wait(60)
        then(exchange)

    return fault


def answered(status: int, body: Any = None, **headers: str) -> Fault:
    """The service is not asked. A body is bytes, or what is an error's sentence."""
    if not isinstance(body, bytes):
        body = json.dumps({"error": body or f"status {status}"}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def fault(exchange: Exchange) -> None:
        exchange.reply(Answer(status, named, body))

    # Tells tests apart.
    fault.__name__ = f"{status} {body[:20].decode()}"
    return fault


def altered(alter: Callable[[Any], Any]) -> Fault:
    """The service's answer, its JSON altered."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        answer.body = json.dumps(alter(answer.json)).encode()
        exchange.reply(answer)

    return fault


# What may be over in a moment, whether the call was done or not.
PASSING = (
    dropped_before,
    dropped_after,
    halved,
    garbled,
    closed_later,
    delayed(0.05),
    delayed(0.05, dropped_after),
    answered(500),
    answered(502, b"<html>Bad Gateway</html>"),
    answered(503, Retry_After="0"),
    answered(504, b""),
    answered(429, Retry_After="nonsense"),
    answered(200, b"<html>Welcome to the hotel</html>"),
    answered(200, b'{"results": [{"identifier"'),
)


def at_random(chance: random.Random, share: float) -> Choose:
    """So much of all calls, from 0 to 1, meets with one of PASSING."""
    return lambda call: chance.choice(PASSING) if chance.random() < share else passed_on
