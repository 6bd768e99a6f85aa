"""Two replicas of the service behind nginx."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Organization
from tests.support.concurrent_clients import CLIENTS, IDENTIFIERS, ConcurrentClients
from tests.support.proxies import nginx
from tests.support.service import Service, run_service

pytestmark = pytest.mark.faults


@pytest.fixture
def replicas(directory: Path, service_url: str) -> Iterator[list[Service]]:
    with (
        run_service(directory / "first", DATABASE_URL=service_url) as first,
        run_service(directory / "second", DATABASE_URL=service_url) as second,
    ):
        yield [first, second]


@pytest.fixture
def clients(
    directory: Path, replicas: list[Service], acme: Organization
) -> Iterator[ConcurrentClients]:
    """Clients of nginx."""
    acme.insert(*IDENTIFIERS)
    with (
        nginx(directory, *replicas) as proxied,
        ConcurrentClients(proxied.port, acme.key) as clients,
    ):
        yield clients


def test_requests_through_two_replicas_do_not_mix_or_fail(
    replicas: list[Service], clients: ConcurrentClients, acme: Organization
) -> None:
    with clients.writing():
        pass
    clients.check(acme.metadata())
    for replica in replicas:
        assert len(replica.statuses) >= 5
        assert set(replica.statuses) == {200}


def test_revoked_key_is_rejected_by_all_replicas(
    replicas: list[Service], clients: ConcurrentClients, acme: Organization
) -> None:
    assert {clients.post({"SN-1": {}}).status for _ in range(20)} == {200}
    acme.cursor.execute("UPDATE api_keys SET revoked_at = now()")
    assert {clients.post({"SN-1": {}}).status for _ in range(20)} == {401}
    for replica in replicas:
        assert set(replica.statuses) == {200, 401}


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_lost_replica_fails_no_request(
    replicas: list[Service],
    clients: ConcurrentClients,
    acme: Organization,
    end: signal.Signals,
) -> None:
    """If a replica is killed, responses that have started break off."""
    process = psutil.Process(replicas[0].process.pid)
    with clients.writing():
        workers = process.children() if end == signal.SIGKILL else []
        for each in [process, *workers]:
            each.send_signal(end)
        code = replicas[0].process.wait(60)
    assert code == (0 if end == signal.SIGTERM else -signal.SIGKILL)
    assert set(clients.statuses) == {200}
    clients.check(acme.metadata(), broken=0 if end == signal.SIGTERM else CLIENTS)
