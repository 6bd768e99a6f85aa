"""Requests for overlapping devices in any order."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg2
import pytest

from tests.faults.conftest import LONG
from tests.support.cluster import Cluster
from tests.support.concurrent_clients import KeepAliveClient, repeat
from tests.support.service import run_service
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

CLIENTS = 8
DEVICES = 3000
BATCHES = [1, 50, 1000]
# Without the order of locks, several of these requests deadlock.
REQUESTS = 200
DEADLOCK = "deadlock detected"


def test_overlapping_batches_never_deadlock(server: Cluster, directory: Path) -> None:
    key = server.prepare(devices=DEVICES)
    chance = random.Random(0)
    statuses: list[int] = []
    before = server.log.read_text().count(DEADLOCK)
    settings = LONG | {"DATABASE_URL": server.service_url}
    with (
        run_service(directory / "gunicorn", **settings) as service,
        ExitStack() as stack,
    ):
        clients = [
            stack.enter_context(KeepAliveClient(service.port, key))
            for _ in range(CLIENTS)
        ]

        def step(client: int) -> None:
            batch = chance.sample(range(DEVICES), chance.choice(BATCHES))
            devices = {f"SN-{number}": {"a": 1} for number in batch}
            statuses.append(clients[client].post(devices).status)

        with repeat(step, CLIENTS):
            wait_until(lambda: len(statuses) >= REQUESTS, "requests")
    assert set(statuses) == {200}
    assert server.log.read_text().count(DEADLOCK) == before


def test_server_log_reports_deadlocks(server: Cluster) -> None:
    """The test above searches the right log for the right text."""
    server.prepare(devices=2)
    before = server.log.read_text().count(DEADLOCK)
    sessions = [server.connect(), server.connect()]
    for connection in sessions:
        connection.autocommit = False

    def lock_device(session: int, device: int) -> None:
        sessions[session].cursor().execute(
            f"SELECT FROM devices WHERE identifier = 'SN-{device}' FOR UPDATE"
        )

    with ThreadPoolExecutor(2) as executor:
        for session in range(2):
            lock_device(session, session)
        futures = [executor.submit(lock_device, n, 1 - n) for n in range(2)]
        errors = [future.exception() for future in futures]
    for connection in sessions:
        connection.close()
    assert psycopg2.errors.DeadlockDetected in map(type, errors)
    wait_until(lambda: server.log.read_text().count(DEADLOCK) > before, "the log entry")
