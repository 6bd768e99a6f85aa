"""Sending: batches, connections, and results."""

import json
import re
import threading
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, numbered
from tests.support.fault_proxy import Fault, FaultProxy, response, run_proxy
from tests.support.service import run_service


def rejecting(identifier: str, fault: Fault) -> faults.Choose:
    """Apply ``fault`` to all requests with this device."""
    return lambda request: fault if identifier in request.devices else faults.forwarded


def test_results_are_exact(
    pusher: Client, proxy: FaultProxy, acme: Organization, globex: Organization
) -> None:
    identifiers = ["SN-1", 'a "quoted", one', "ünïcode 😀", " trimmed ", "SN-2"]
    acme.insert("SN-1", 'a "quoted", one', "ünïcode 😀", "trimmed", "untouched")
    globex.insert("SN-2")
    pusher.write({each: {"n": n} for n, each in enumerate(identifiers)})
    done = pusher.push("--json")
    assert done.code == 3
    assert 0 < done.summary["seconds"] < 100
    assert done.summary == {
        "devices": 5,
        "updated": 4,
        "wouldUpdate": 0,
        "notFound": 1,
        "invalid": 0,
        "refused": 0,
        "notSent": 0,
        "retries": 0,
        "seconds": done.summary["seconds"],
        "results": "fleet.ndjson.results.csv",
        "requestId": done.summary["requestId"],
        "resumable": False,
        "failure": "",
    }
    ids = acme.ids()
    assert pusher.results() == [
        ["1", "SN-1", ids["SN-1"], "updated"],
        ["2", 'a "quoted", one', ids['a "quoted", one'], "updated"],
        ["3", "ünïcode 😀", ids["ünïcode 😀"], "updated"],
        ["4", "trimmed", ids["trimmed"], "updated"],
        ["5", "SN-2", "", "not_found"],
    ]
    assert acme.metadata()["trimmed"] == {"n": 3}
    assert acme.metadata()["untouched"] == {}
    assert globex.metadata() == {"SN-2": {}}
    [request] = proxy.requests
    assert request.headers["x-api-key"] == acme.key
    assert (
        done.out == f"{json.dumps({'summary': done.summary}, separators=(',', ':'))}\n"
    )


def test_summary_counts_results(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    acme.insert("SN-0", "SN-1")
    pusher.write(numbered(3))
    done = pusher.push()
    assert done.code == 3
    [request] = proxy.requests
    request_id = request.headers["X-Request-ID"]
    assert re.fullmatch("push-[0-9a-f]{24}", request_id)
    assert done.err == (
        f"Reading ...\nChecking ...\nSending ...\nRequest ID: {request_id}\n"
    )
    first, *rest = done.out.splitlines()
    assert first.startswith("3 devices of fleet.ndjson in ")
    assert rest == [
        "            2 updated",
        "            1 not found",
        "Results: fleet.ndjson.results.csv",
        f"Request ID: {request_id}",
        f"Undo: flask undo ORGANIZATION --request {request_id}",
    ]


def test_quiet_prints_only_errors(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    acme.insert("SN-0")
    pusher.write(numbered(2))
    done = pusher.push("--quiet")
    assert (done.code, done.out, done.err) == (3, "", "")
    proxy.script(response(401, "Invalid or missing API key"))
    done = pusher.push("--quiet")
    assert done.code == 1
    assert (done.out, done.err) == (
        "",
        "Error: 401: Invalid or missing API key.\n"
        "To continue, run the same command with --resume.\n",
    )


def test_batch_limits_apply(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    devices = numbered(2500)
    acme.insert(*devices)
    pusher.write(devices)
    assert pusher.push("--concurrency=1").code == 0
    assert [len(request.devices) for request in proxy.requests] == [1000, 1000, 500]
    assert acme.metadata() == devices
    proxy.requests.clear()
    assert pusher.push("--batch-size=50", "--max-body-bytes=1000").code == 0
    sizes = [len(request.body) for request in proxy.requests]
    # Each batch is full, except the last one.
    assert max(sizes) <= 1000
    assert sorted(sizes)[1] > 950
    assert sum(len(request.devices) for request in proxy.requests) == 2500


def test_concurrent_requests_reuse_connections(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    devices = numbered(40)
    acme.insert(*devices)
    pusher.write(devices)
    all_there = threading.Event()

    def choose(request: faults.Request) -> Fault:
        if len(proxy.requests) == 5:
            all_there.set()
        return faults.held(all_there)

    proxy.choose = choose
    assert pusher.push("--batch-size=1", "--concurrency=5").code == 0
    assert proxy.max_concurrent == 5
    assert proxy.connections == 5
    assert len(proxy.requests) == 40


def test_closed_connections_are_replaced(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    devices = numbered(20)
    acme.insert(*devices)
    pusher.write(devices)
    proxy.choose = lambda request: faults.closed_after
    done = pusher.push("--batch-size=1", "--concurrency=2", "--json")
    assert done.code == 0
    assert done.summary["updated"] == 20
    assert proxy.connections >= 20


@pytest.mark.slow(reason="40 or more requests, one after the other")
def test_413_splits_batch_and_reduces_later_ones(
    pusher: Client, acme: Organization, service_url: str, tmp_path: Path
) -> None:
    devices = numbered(10_000, padding="x" * 100)
    acme.insert(*devices)
    pusher.write(devices)
    limit = 40_000
    log = tmp_path / "log"
    with (
        run_service(
            log, DATABASE_URL=service_url, MAX_BODY_BYTES=str(limit)
        ) as service,
        run_proxy(service.port) as proxy,
    ):
        pusher.url = proxy.url
        done = pusher.push("--concurrency=1", "--json")
        too_large = [each for each in proxy.requests if len(each.body) > limit]
    assert done.code == 0, done.err
    assert (done.summary["updated"], done.summary["retries"]) == (10_000, 0)
    assert acme.metadata() == devices
    # The batches that were prepared before the first 413, and their halves.
    assert 3 <= len(too_large) <= 12
    assert max(len(request.body) for request in proxy.requests[20:]) <= limit


def test_413_isolates_large_device(
    pusher: Client, acme: Organization, service_url: str, tmp_path: Path
) -> None:
    devices = numbered(5)
    devices["SN-3"]["padding"] = "x" * 2000
    acme.insert(*devices)
    pusher.write(devices)
    with run_service(
        tmp_path / "log", DATABASE_URL=service_url, MAX_BODY_BYTES="1000"
    ) as service:
        pusher.url = f"http://127.0.0.1:{service.port}"
        done = pusher.push("--json")
    assert done.code == 1
    problem, _ = map(json.loads, done.out.splitlines())
    assert problem == {
        "problem": "413: Request body too large. Maximum 1000 bytes",
        "line": 4,
        "identifier": "SN-3",
    }
    assert (done.summary["updated"], done.summary["refused"]) == (4, 1)
    assert pusher.statuses()["SN-3"] == "refused"
    assert acme.metadata() == {**devices, "SN-3": {}}


def test_400_from_proxy_aborts_run(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    pusher.write(numbered(50))
    page = b"<html>The plain HTTP request was sent to HTTPS port</html>"
    proxy.choose = lambda request: response(400, page)
    done = pusher.push("--batch-size=10", "--concurrency=1")
    assert done.code == 1
    assert "Error: 400 Bad Request.\n" in done.err
    assert len(proxy.requests) == 1


def test_400_isolates_rejected_device(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    devices = numbered(100)
    acme.insert(*devices)
    pusher.write(devices)
    proxy.choose = rejecting("SN-37", response(400, 'no "SN-37"'))
    done = pusher.push()
    assert done.code == 1
    assert 'fleet.ndjson, line 38, device "SN-37": 400: no "SN-37"\n' in done.err
    assert "           99 updated\n            1 rejected\n" in done.out
    assert done.err.endswith(
        "Error: 1 rejected.\nTo continue, run the same command with --resume.\n"
    )
    assert acme.updated() == devices.keys() - {"SN-37"}
    # A binary search.
    assert len(proxy.requests) < 20
    # It may be accepted later.
    proxy.script()
    proxy.requests.clear()
    assert pusher.push("--resume").code == 0
    [request] = proxy.requests
    assert list(request.devices) == ["SN-37"]
    assert acme.metadata() == devices


def test_no_check_skips_invalid_devices(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    acme.insert("SN-1", "SN-2")
    (pusher.directory / "fleet.ndjson").write_text(
        '{"identifier": "SN-1", "metadata": {}}\nnonsense\n'
        '{"identifier": "SN-2", "metadata": []}\n'
    )
    done = pusher.push("--no-check")
    assert done.code == 1
    assert "fleet.ndjson, line 2: " in done.err
    assert [row[3] for row in pusher.results()] == ["updated", "invalid", "invalid"]
    assert not pusher.journal.exists()


def test_no_check_reports_unsent_devices(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    devices = numbered(6)
    acme.insert(*devices)
    pusher.write(devices)
    proxy.choose = rejecting("SN-2", response(401, "no"))
    options = ("--no-check", "--batch-size=2", "--concurrency=1")
    done = pusher.push(*options)
    assert done.code == 1
    assert pusher.statuses()["SN-2"] == "not_sent"
    proxy.script()
    assert pusher.push("--resume", *options).code == 0
    assert pusher.statuses() == dict.fromkeys(devices, "updated")


@pytest.mark.parametrize("name", ["out.ndjson", "out.jsonl", "out.csv"])
def test_result_file_formats(pusher: Client, acme: Organization, name: str) -> None:
    acme.insert("SN-0")
    pusher.write(numbered(2))
    assert pusher.push(f"--results={name}").code == 3
    assert pusher.results(name) == [
        ["1", "SN-0", acme.ids()["SN-0"], "updated"],
        ["2", "SN-1", "", "not_found"],
    ]


def test_unknown_result_format_is_rejected(pusher: Client) -> None:
    pusher.write(numbered(1))
    done = pusher.push("--results=out.txt")
    assert done.code == 2
    assert done.err.endswith(
        "Error: --results must end in one of: .csv, .ndjson, .jsonl\n"
    )


def test_standard_input_is_pushed(pusher: Client, acme: Organization) -> None:
    acme.insert("SN-0")
    file = pusher.write(numbered(1))
    done = pusher.push("--format=ndjson", file="-", stdin=file.read_bytes())
    assert done.code == 0, done.err
    assert "1 device of standard input in " in done.out
    assert pusher.results("stdin.results.csv")[0][3] == "updated"
