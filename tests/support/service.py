"""The service under gunicorn, in a separate process."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
PATH = "/api/ext-v1/device/bulk-metadata"

# The operating system chooses unused ports.
ANY_PORT = {"BIND": "127.0.0.1:0", "METRICS_BIND": "127.0.0.1:0"}


@dataclass
class Response:
    """A response."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """A running service."""

    port: int
    process: subprocess.Popen[str]
    log: Path
    # 0 for a proxy.
    metrics_port: int = 0

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The access log."""
        text = self.log.with_suffix(".requests").read_text()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def statuses(self) -> list[int]:
        """The statuses in the access log."""
        return [line["status"] for line in self.requests]

    def request(
        self,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        path: str = PATH,
        **options: Any,
    ) -> Response:
        """Send a request on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with closing(connection):
            connection.request(method, path, body, dict(headers or {}), **options)
            response = connection.getresponse()
            return Response(response.status, dict(response.headers), response.read())

    def send(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send raw bytes and return the bytes received until the connection closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            for piece in pieces:
                client.sendall(piece)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            received = b""
            while data := client.recv(65536):
                received += data
            return received

    def workers(self) -> dict[int, psutil.Process]:
        """Return the running workers of gunicorn by process ID."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if child.status() != psutil.STATUS_ZOMBIE:
                    found[child.pid] = child
        return found

    def reload(self) -> None:
        """Make gunicorn replace its workers, and return when the old ones exited."""
        old = set(self.workers())
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: old.isdisjoint(self.workers()), "the old workers to exit")


@contextmanager
def run_service(log: Path, **settings: str) -> Iterator[Service]:
    """Run gunicorn on an unused port, and shut it down gracefully."""
    with log.open("w") as stderr, log.with_suffix(".requests").open("w") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"],
            cwd=ROOT,
            env={**os.environ, **ANY_PORT, **settings},
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
    try:
        port = listening_port(process, log)
        yield Service(port, process, log, metrics_port(log))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def listening_port(process: subprocess.Popen[str], log: Path) -> int:
    """Return the port from the start-up message of gunicorn."""
    message = re.compile(r"Listening at: http://127.0.0.1:(\d+)")
    wait_until(
        lambda: process.poll() is not None or message.search(log.read_text()),
        "gunicorn to listen",
    )
    if match := message.search(log.read_text()):
        return int(match[1])
    raise RuntimeError(log.read_text())


def metrics_port(log: Path) -> int:
    """Return the metrics port, which the log contains before the other port."""
    [port] = re.findall(r"Metrics at http://127.0.0.1:(\d+)/metrics", log.read_text())
    return int(port)
