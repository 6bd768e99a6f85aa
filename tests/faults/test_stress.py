"""No acknowledged write is lost and no device is mixed, whatever breaks meanwhile."""

import os
import random
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.load import Client
from tests.support.service import Answer, run_service
from tests.support.stress import (
    CLIENTS,
    DEVICES,
    LOST,
    Call,
    Torture,
    is_right,
    violations,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

SECONDS = float(os.environ.get("TORTURE_SECONDS") or 60)
SEED = int(os.environ.get("TORTURE_SEED") or random.randrange(10**6))


def test_no_fault_loses_or_mixes_anything(server: Cluster, folder: Path) -> None:
    key = server.prepare(devices=len(DEVICES))
    log = folder / "gunicorn"
    # Nobody gives up on a request that may still be at work.
    settings = {"DATABASE_URL": server.service_url, "REQUEST_TIMEOUT": "600"}
    with run_service(log, **settings) as service:
        print(f"TORTURE_SEED={SEED} TORTURE_SECONDS={SECONDS:g}:", CLIENTS, "clients")
        torture = Torture(server, service, key, SEED)
        torture.run(SECONDS)
        found = list(violations(torture.calls, server.metadata(), torture.crashes))
        print(f"{torture.figures()}, violations {len(found)}", flush=True)
        assert found == []
        assert any(call.status == 200 for call in torture.calls[1:])
        # It goes on as if nothing had happened.
        client = Client(service, key)
        sent = {device: {"after": "all"} for device in DEVICES}
        wait_until(lambda: client.post(sent).status == 200, "the service to be well")
        client.close()
        assert server.metadata() == sent


def call(number: int, start: float, status: int = 200) -> Call:
    return Call(number, f"token {number}", ["SN-0"], start, start + 1, status)


def found(calls: list[Call], writer: Call, *crashes: float) -> list[str]:
    return list(violations(calls, {"SN-0": writer.metadata("SN-0")}, crashes))


def test_the_check_accepts_the_last_call_and_one_that_overlaps_it() -> None:
    calls = [call(0, 10), call(1, 20), call(2, 20.5)]
    assert found(calls, calls[2]) == []
    assert found(calls, calls[1]) == []


def test_the_check_finds_a_lost_write() -> None:
    calls = [call(0, 10), call(1, 20)]
    assert found(calls, calls[0]) == ["SN-0 lost call 1 to 0"]


@pytest.mark.parametrize("status", [500, LOST])
def test_a_call_without_a_200_may_happen_or_not(status: int) -> None:
    calls = [call(0, 10), call(1, 20, status)]
    assert found(calls, calls[0]) == []
    assert found(calls, calls[1]) == []


@pytest.mark.parametrize("status", [500, LOST])
def test_a_call_without_a_200_may_happen_late_but_not_after_a_crash(
    status: int,
) -> None:
    calls = [call(0, 10, status), call(1, 20)]
    assert found(calls, calls[0]) == []
    assert found(calls, calls[0], 5, 30) == []
    assert found(calls, calls[0], 5, 15) == ["SN-0 lost call 1 to 0"]


def test_the_check_finds_a_mixed_device() -> None:
    calls = [call(0, 10), call(1, 20)]
    mixed = calls[1].metadata("SN-0")
    mixed["padding"] = calls[0].metadata("SN-0")["padding"]
    assert list(violations(calls, {"SN-0": mixed}, [])) == [
        "SN-0 holds something else than call 1 sent"
    ]
    merged = calls[1].metadata("SN-0") | {"more": 1}
    assert list(violations(calls, {"SN-0": merged}, [])) == [
        "SN-0 holds something else than call 1 sent"
    ]


@pytest.mark.parametrize("metadata", [{}, {"call": 7}, call(0, 10).metadata("SN-1")])
def test_the_check_finds_what_nobody_sent(metadata: dict[str, object]) -> None:
    stored = {"SN-1": metadata}
    assert list(violations([call(0, 10)], stored, [])) == [
        "SN-1 holds what no call sent for it"
    ]


def test_the_check_finds_a_wrong_answer() -> None:
    odd = call(0, 10, status=401)
    odd.is_wrong = True
    assert found([odd], odd) == [
        "call 0 was answered with 401",
        "call 0 was told of other devices than it sent",
    ]


def test_an_answer_names_the_devices_in_their_order() -> None:
    sent = Call(0, "", ["SN-0", "SN-1"])

    def told(*identifiers: str, status: str = "updated") -> bool:
        results = ",".join(
            f'{{"identifier": "{identifier}", "status": "{status}"}}'
            for identifier in identifiers
        )
        body = f'{{"updated": 2, "notFound": 0, "results": [{results}]}}'
        return is_right(sent, Answer(200, {}, body.encode()))

    assert told("SN-0", "SN-1")
    assert not told("SN-1", "SN-0")
    assert not told("SN-0")
    assert not told("SN-0", "SN-1", status="not_found")
