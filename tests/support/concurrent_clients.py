"""Concurrent clients of the service, and a check of the devices that they updated."""

import http.client
import json
import operator
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.cluster import Cluster
from tests.support.service import PATH, Response
from tests.support.waiting import TIMEOUT, wait_until

CLIENTS = 8
# Devices per request. Each client shares half of its devices with the next one.
DEVICES_PER_REQUEST = 20
STEP = DEVICES_PER_REQUEST // 2
IDENTIFIERS = [f"SN-{number}" for number in range(STEP * (CLIENTS + 1))]

ERROR = {"error": "Internal server error"}


@dataclass
class ConcurrentClients:
    """Clients of the service at ``port`` of 127.0.0.1. Each one writes increasing
    numbers to its devices, and records which ones were acknowledged."""

    port: int
    key: str
    # By client: the last number sent, and the last one acknowledged.
    sent: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    acknowledged: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    statuses: list[int] = field(default_factory=list)
    #: Requests whose connection broke.
    broken: int = 0
    #: Seconds of the slowest request.
    slowest: float = 0.0
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(16 * CLIENTS)
    )

    def __enter__(self) -> "ConcurrentClients":
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.shutdown()

    def post(self, devices: object) -> Response:
        """Send a request on a new connection."""
        with KeepAliveClient(self.port, self.key) as client:
            return client.post(devices)

    def write(self, client: int) -> int:
        """Write the next number of a client. Return the status, which is 200 or 500."""
        self.sent[client] += 1
        return self.rewrite(client)

    def rewrite(self, client: int) -> int:
        """Write the last number of a client again. Return the status."""
        number = self.sent[client]
        identifiers = IDENTIFIERS[client * STEP :][:DEVICES_PER_REQUEST]
        metadata = {"client": client, "number": number}
        start = time.monotonic()
        try:
            response = self.post(dict.fromkeys(identifiers, metadata))
        except (ConnectionError, http.client.HTTPException):
            self.broken += 1
            return 0
        self.slowest = max(self.slowest, time.monotonic() - start)
        self.statuses.append(response.status)
        if response.status == 200:
            assert response.json["updated"] == DEVICES_PER_REQUEST
            self.acknowledged[client] = number
        else:
            assert (response.status, response.json) == (500, ERROR)
        return response.status

    def start(self, client: int) -> Future[int]:
        return self.executor.submit(self.rewrite, client)

    def burst(self) -> set[int]:
        """Let all clients send one request at the same time. Return the statuses."""
        requests = [self.start(client) for client in range(CLIENTS)]
        return {request.result() for request in requests}

    def open_connections(self, server: Cluster, number: int) -> set[int]:
        """Open ``number`` pooled connections, by requests that all wait for one lock.
        Return the statuses."""
        requests: list[Future[int]] = []

        def all_wait() -> bool:
            for n in range(len(requests), max(number, len(requests) + 1)):
                requests.append(self.start(n % CLIENTS))
            return server.waiting() == number

        with lock(server, "LOCK TABLE devices IN SHARE MODE"):
            wait_until(all_wait, f"{number} connections")
        return {request.result() for request in requests}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let all clients write without a pause, and check that each of them gets
        responses before and after the block."""
        with repeat(self.write, CLIENTS):
            self.wait_for_more()
            yield
            self.wait_for_more()

    def wait_for_more(self, which: Callable[[Iterable[bool]], bool] = all) -> None:
        """Wait until all (or any) clients got a 200 for a request sent from now on."""
        sent = list(self.sent)
        wait_until(
            lambda: which(map(operator.gt, list(self.acknowledged), sent)),
            "acknowledged requests",
        )

    def check(self, stored: Mapping[str, Mapping[str, Any]], broken: int = 0) -> None:
        """Check that each device has the metadata of one request, that no acknowledged
        request was lost, and that at most ``broken`` connections broke."""
        assert self.broken <= broken
        for position, identifier in enumerate(IDENTIFIERS):
            last = min(position // STEP, CLIENTS - 1)
            first = max(position // STEP - 1, 0)
            metadata = stored[identifier]
            if not metadata:
                assert not any(self.acknowledged[first : last + 1])
                continue
            client, number = metadata["client"], metadata["number"]
            assert first <= client <= last
            assert self.acknowledged[client] <= number <= self.sent[client]


class KeepAliveClient:
    """A client that sends its requests on one connection."""

    def __init__(self, port: int, key: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self.headers = {"x-api-key": key}

    def __enter__(self) -> "KeepAliveClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def post(self, devices: object) -> Response:
        """Send a request, without retries. Raises OSError or HTTPException if there is
        no response."""
        # Like every HTTP client, replace a connection that the server has closed.
        kept = self.connection.sock
        if kept is not None and select.select([kept], [], [], 0)[0]:
            self.connection.close()
        body = json.dumps({"devices": devices}).encode()
        try:
            self.connection.request("POST", PATH, body, self.headers)
            response = self.connection.getresponse()
            return Response(response.status, dict(response.headers), response.read())
        except BaseException:
            self.connection.close()
            raise


@contextmanager
def repeat(step: Callable[[int], object], clients: int) -> Iterator[None]:
    """Let each client repeat ``step(client)`` in a thread. Raise its exceptions."""
    stop = threading.Event()

    def run(client: int) -> None:
        while not stop.is_set():
            step(client)

    with ThreadPoolExecutor(clients) as executor:
        futures = [executor.submit(run, client) for client in range(clients)]
        try:
            yield
        finally:
            stop.set()
        for future in futures:
            future.result()


@contextmanager
def lock(server: Cluster, statement: str) -> Iterator[None]:
    """Hold the locks of a statement in another session."""
    connection = server.connect()
    try:
        connection.autocommit = False
        connection.cursor().execute(statement)
        yield
    finally:
        connection.close()


def lock_device(server: Cluster, identifier: str) -> Any:
    """Hold the row lock of a device."""
    return lock(
        server, f"SELECT FROM devices WHERE identifier = '{identifier}' FOR UPDATE"
    )
