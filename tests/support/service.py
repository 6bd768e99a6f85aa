"""The service as it runs in production: gunicorn, as a process of its own."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATH = "/api/ext-v1/device/bulk-metadata"

# The system chooses free ones.
ANY_PORT = {"BIND": "127.0.0.1:0", "METRICS_BIND": "127.0.0.1:0"}


@dataclass
class Answer:
    """What came back, as far as a client can tell."""

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
        """The log of requests so far."""
        text = self.log.with_suffix(".requests").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def request(
        self,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        path: str = PATH,
        **options: Any,
    ) -> Answer:
        """Send a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers or {}), **options)
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())
        finally:
            connection.close()

    def send(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send bytes as they are and return all that comes back until the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            for piece in pieces:
                client.sendall(piece)
            if half_close:
                client.shutdown(socket.SHUT_WR)
            received = b""
            while data := client.recv(65536):
                received += data
            return received


@contextmanager
def run_service(log: Path, **settings: str) -> Iterator[Service]:
    """Run gunicorn on a free port, and end it gracefully."""
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
    while process.poll() is None and not message.search(log.read_text()):
        time.sleep(0.01)
    if match := message.search(log.read_text()):
        return int(match[1])
    raise RuntimeError(log.read_text())


def metrics_port(log: Path) -> int:
    """Return the metrics port, which the log contains before the other port."""
    [port] = re.findall(r"Metrics at http://127.0.0.1:(\d+)/metrics", log.read_text())
    return int(port)
