"""Batches that overlap in every order never wait for one another in a circle."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.support.cluster import Cluster
from tests.support.load import Client, devices, load
from tests.support.service import run_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

SECONDS = 30
CLIENTS = 8
DEVICES = 3000
BATCHES = [1, 50, 1000]
# However slow the machine, nobody gives up: this is about the order of locks alone.
PATIENT = {
    "LOCK_TIMEOUT": "60",
    "STATEMENT_TIMEOUT": "120",
    "ANSWER_TIMEOUT": "240",
    "REQUEST_TIMEOUT": "600",
}


def test_overlapping_batches_never_deadlock(server: Cluster, folder: Path) -> None:
    key = server.prepare(devices=DEVICES)
    settings = PATIENT | {"DATABASE_URL": server.service_url}
    with run_service(folder / "gunicorn", **settings) as service:
        clients = [Client(service, key) for _ in range(CLIENTS)]
        statuses: list[int] = []

        def step(number: int) -> None:
            batch = random.choice(BATCHES)
            sent = devices(random.sample(range(DEVICES), batch))
            statuses.append(clients[number].post(sent).status)

        try:
            with load(step, CLIENTS):
                time.sleep(SECONDS)
        finally:
            for client in clients:
                client.close()
    print(f"{len(statuses)} calls")
    assert set(statuses) == {200}
    assert "deadlock detected" not in server.log.read_text()


def test_the_servers_log_tells_of_deadlocks(server: Cluster) -> None:
    """The test above looks at the right place."""
    server.prepare(devices=2)

    def second_of_two(first: str, second: str) -> Iterator[None]:
        """Lock one device, and, when asked to go on, the other."""
        with closing(server.connect()) as owner, owner.cursor() as cursor:
            owner.autocommit = False
            lock = "SELECT FROM devices WHERE identifier = %s FOR UPDATE"
            cursor.execute(lock, (first,))
            yield
            cursor.execute(lock, (second,))

    with ThreadPoolExecutor(2) as executor:
        orders = [second_of_two("SN-0", "SN-1"), second_of_two("SN-1", "SN-0")]
        for order in orders:
            next(order)
        futures = [executor.submit(next, order, None) for order in orders]
        errors = [future.exception() for future in futures]
    assert [type(error) for error in errors if error] == [
        psycopg2.errors.DeadlockDetected
    ]
    wait_until(
        lambda: "deadlock detected" in server.log.read_text(), "the line in the log"
    )
