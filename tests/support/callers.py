"""Clients that call for devices of each other, all at once and without a pause."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from tests.support.load import load
from tests.support.service import PATH, Answer
from tests.support.waiting import wait_until

CLIENTS = 6
# Each client's devices are the next one's, too, but for the first half.
DEVICES = 200
STEP = DEVICES // 2
IDENTIFIERS = [f"SN-{number}" for number in range(STEP * (CLIENTS + 1))]


class Callers:
    """Each one writes one number after the other to its devices, which must succeed."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key
        self.sent = [0] * CLIENTS
        # Answers that had begun to come, and broke off.
        self.broken_off = 0
        self.failed = False

    def post(self, devices: object) -> Answer:
        """Send a call on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with closing(connection):
            body = json.dumps({"devices": devices})
            connection.request("POST", PATH, body, {"x-api-key": self.key})
            response = connection.getresponse()
            return Answer(response.status, dict(response.headers), response.read())

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Have all of them call, before this, as long as it lasts, and after it."""
        with load(self._call, CLIENTS):
            self.wait_for_more()
            yield
            self.wait_for_more()

    def wait_for_more(self) -> None:
        """Wait until every client has had ten more answers, or one has failed."""
        goal = [number + 11 for number in self.sent]
        wait_until(
            lambda: self.failed or all(map(int.__ge__, list(self.sent), goal)),
            "calls to be answered",
        )

    def check(self, stored: Mapping[str, Any]) -> None:
        """Every device holds the last value that one of its clients sent, whole."""
        for number, identifier in enumerate(IDENTIFIERS):
            block = number // STEP
            clients = {max(block - 1, 0), min(block, CLIENTS - 1)}
            assert stored[identifier] in [self._metadata(client) for client in clients]

    def _metadata(self, client: int) -> dict[str, int]:
        return {"client": client, "number": self.sent[client]}

    def _call(self, client: int) -> None:
        self.sent[client] += 1
        devices = IDENTIFIERS[client * STEP :][:DEVICES]
        try:
            answer = self.post(dict.fromkeys(devices, self._metadata(client)))
            assert (answer.status, answer.json.get("updated")) == (200, DEVICES)
        except http.client.IncompleteRead:
            self.broken_off += 1
        except BaseException:
            self.failed = True
            raise
