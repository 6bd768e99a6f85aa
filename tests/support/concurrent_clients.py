"""Clients that write numbers and remember which ones were acknowledged."""

import json
import operator
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.service import Service, run_service
from tests.support.waiting import wait_until

WORKERS = 2
# As many as there are clients: whichever worker takes a call, a thread is free for it.
THREADS = 8
CLIENTS = 8
CONNECTIONS = WORKERS * THREADS
# Devices that a client writes in one call: all hold its number, or it was half done.
GROUP = 5
DEVICES = CLIENTS * GROUP

# Seconds in which the service promises to answer.
PROMISE = 15
ERROR = {"error": "Internal server error"}


@dataclass
class Clients:
    """Clients of a running service. Each one has devices of its own, and writes one
    number after the other to all of them."""

    service: Service
    key: str
    executor: ThreadPoolExecutor
    # By client: the last number that it sent, and the last one acknowledged.
    sent: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    acknowledged: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    seconds: list[float] = field(default_factory=lambda: [0.0])
    statuses: list[int] = field(default_factory=list)

    def call(self, client: int, number: int = 0) -> int:
        """Write ``number`` to the client's devices and return the status: 200, or 500
        with the sentence that says nothing."""
        first = client * GROUP
        devices = range(first, first + GROUP)
        documents = {f"SN-{device}": {"number": number} for device in devices}
        body = json.dumps({"devices": documents})
        start = time.monotonic()
        answer = self.service.request(body, {"x-api-key": self.key})
        self.seconds.append(time.monotonic() - start)
        self.statuses.append(answer.status)
        if answer.status != 200:
            assert (answer.status, answer.json) == (500, ERROR)
        return answer.status

    def start(self, client: int = 0) -> Future[int]:
        return self.executor.submit(self.call, client)

    def burst(self) -> set[int]:
        """Let every client call once, at the same time; return the statuses."""
        calls = [self.start(client) for client in range(CLIENTS)]
        return {call.result() for call in calls}

    def warm(self, server: Cluster) -> set[int]:
        """Call until every connection of every pool is open; return the statuses.

        Calls that end at once would share a few connections. A lock keeps them all in
        the middle of their statement until the last place of the last pool is taken.
        """
        calls: list[Future[int]] = []

        def all_wait() -> bool:
            for number in range(len(calls), max(CONNECTIONS, len(calls) + 1)):
                calls.append(self.start(number % CLIENTS))
            return waiting(server) == CONNECTIONS

        with holding(server, "LOCK TABLE devices IN SHARE MODE"):
            wait_until(all_wait)
        return {call.result() for call in calls}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let every client write, without pause, as long as this lasts."""
        stop = threading.Event()
        writers = [
            self.executor.submit(self._write, client, stop) for client in range(CLIENTS)
        ]
        try:
            yield
        finally:
            stop.set()
            for writer in writers:
                writer.result()

    def _write(self, client: int, stop: threading.Event) -> None:
        while not stop.is_set():
            self.sent[client] += 1
            if self.call(client, self.sent[client]) == 200:
                self.acknowledged[client] = self.sent[client]

    def wait_for_more(self, whose: Callable[[Iterable[bool]], bool] = all) -> None:
        """Wait until all (or any) of the clients have had a write acknowledged that
        they sent from now on."""
        sent = list(self.sent)
        wait_until(lambda: whose(map(operator.gt, list(self.acknowledged), sent)))

    def check(self, server: Cluster) -> None:
        """Nothing that was acknowledged is lost, and no call is half done."""
        numbers = stored(server)
        for client in range(CLIENTS):
            assert self.acknowledged[client] <= numbers[client] <= self.sent[client]

    @property
    def worst(self) -> float:
        return max(self.seconds)


@contextmanager
def clients(key: str, url: str, folder: Path, **settings: str) -> Iterator[Clients]:
    """Run the service on the database at ``url``, and clients for it."""
    settings = {"WORKERS": str(WORKERS), "THREADS": str(THREADS), **settings}
    with (
        run_service(folder / "gunicorn", DATABASE_URL=url, **settings) as service,
        ThreadPoolExecutor(8 * CONNECTIONS) as executor,
    ):
        clients = Clients(service, key, executor)
        yield clients
        failed = sum(status != 200 for status in clients.statuses)
        print(
            f"{len(clients.statuses)} calls, {failed} answered 500,"
            f" the slowest in {clients.worst:.2f} s"
        )


def stored(server: Cluster) -> list[int]:
    """Return the number that each client's devices hold, all of them the same."""
    numbers: dict[int, set[object]] = {}
    for identifier, metadata in server.metadata().items():
        client = int(identifier.removeprefix("SN-")) // GROUP
        numbers.setdefault(client, set()).add(metadata.get("number", 0))
    found = []
    for client in range(CLIENTS):
        (number,) = numbers[client]
        assert isinstance(number, int)
        found.append(number)
    return found


@contextmanager
def holding(server: Cluster, statement: str) -> Iterator[None]:
    """Keep in another session what the statement locks."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(statement)
        yield
        cursor.execute("ROLLBACK")


def ask(server: Cluster, question: str) -> int:
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute(question)
        (answer,) = cursor.fetchone() or (0,)
        return int(answer)


def waiting(server: Cluster) -> int:
    """Return how many of the service's statements wait for a lock."""
    return ask(
        server,
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'bulk-metadata' AND wait_event_type = 'Lock'",
    )


def residue(server: Cluster) -> int:
    """Return how many locks the service holds, and connections that are not idle."""
    return ask(
        server,
        "SELECT count(*) FROM pg_stat_activity AS session"
        " WHERE application_name = 'bulk-metadata' AND (state <> 'idle'"
        " OR EXISTS (SELECT FROM pg_locks WHERE pid = session.pid))",
    )


def execute(server: Cluster, *statements: str) -> None:
    """Run the owner's statements, even on a server that says it only reads."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = off")
        for statement in statements:
            cursor.execute(statement)
