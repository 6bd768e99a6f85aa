"""Two replicas of the service behind nginx: they know nothing of each other."""

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Organization
from tests.support.callers import CLIENTS, IDENTIFIERS, Callers
from tests.support.proxies import nginx
from tests.support.service import Service, run_service

pytestmark = pytest.mark.faults


@pytest.fixture
def replicas(folder: Path, service_url: str) -> Iterator[list[Service]]:
    settings = {"DATABASE_URL": service_url}
    with (
        run_service(folder / "first", **settings) as first,
        run_service(folder / "second", **settings) as second,
    ):
        yield [first, second]


@pytest.fixture
def callers(
    folder: Path, replicas: list[Service], acme: Organization
) -> Iterator[Callers]:
    """Clients of Acme's, at nginx's port."""
    acme.insert(*IDENTIFIERS)
    with nginx(folder, *replicas) as proxied:
        yield Callers(proxied.port, acme.key)


def statuses(replica: Service) -> list[int]:
    return [line["status"] for line in replica.requests]


def test_calls_at_once_through_two_replicas_do_not_mix_or_fail(
    replicas: list[Service], callers: Callers, acme: Organization
) -> None:
    with callers.calling():
        pass
    callers.check(acme.metadata())
    assert callers.broken_off == 0
    for replica in replicas:
        assert len(statuses(replica)) >= 10
        assert set(statuses(replica)) == {200}


def test_a_revoked_key_stops_working_on_all_replicas_at_once(
    replicas: list[Service], callers: Callers, acme: Organization
) -> None:
    assert {callers.post({"SN-1": {}}).status for _ in range(20)} == {200}
    acme.cursor.execute("UPDATE api_keys SET revoked_at = now()")
    assert {callers.post({"SN-1": {}}).status for _ in range(20)} == {401}
    for replica in replicas:
        assert set(statuses(replica)) == {200, 401}


def test_a_replica_that_ends_fails_no_call(
    replicas: list[Service], callers: Callers, acme: Organization
) -> None:
    process = replicas[0].process
    with callers.calling():
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    callers.check(acme.metadata())
    assert callers.broken_off == 0


def test_a_replica_that_is_killed_fails_no_call(
    replicas: list[Service], callers: Callers, acme: Organization
) -> None:
    """But those whose answers it had begun to send: nobody can take these back."""
    process = replicas[0].process
    with callers.calling():
        family = psutil.Process(process.pid)
        for member in [family, *family.children()]:
            member.kill()
        process.wait(60)
    callers.check(acme.metadata())
    assert callers.broken_off <= CLIENTS
