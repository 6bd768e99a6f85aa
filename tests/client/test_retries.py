"""Retries: which failures are retried, when, and how often."""

import re
import socket
import threading
import time
from contextlib import ExitStack

import pytest

from bulk_metadata.client import connection, transport
from bulk_metadata.client.connection import TlsFiles
from bulk_metadata.client.retry import RequestError
from bulk_metadata.client.transport import Transport, endpoint
from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, numbered
from tests.support.fault_proxy import Fault, FaultProxy, page, response
from tests.support.service import PATH
from tests.support.tcp_proxy import spawn
from tests.support.waiting import free_port

DEVICES = numbered(10)


@pytest.fixture(autouse=True)
def fleet(pusher: Client, acme: Organization) -> None:
    pusher.write(DEVICES)
    acme.insert(*DEVICES)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (faults.dropped_before, "the connection to 127.0.0.1:"),
        (faults.dropped_after, "the connection to 127.0.0.1:"),
        (faults.truncated, "the connection to 127.0.0.1:"),
        (faults.garbled, "the connection to 127.0.0.1:"),
        (response(500, "Internal server error"), "500: Internal server error"),
        (response(522, b""), "522"),
        (response(429, "slow\ndown\x1b[2J"), r"429: slow\ndown\x1b[2J"),
        (
            response(200, b'{"results": [{"ident'),
            "200, but the response is truncated or invalid JSON: ",
        ),
        (
            response(200, b"{}", Content_Encoding="gzip"),
            "unreadable response: ",
        ),
    ],
)
def test_transient_failure_is_retried(
    pusher: Client, proxy: FaultProxy, acme: Organization, fault: Fault, reason: str
) -> None:
    proxy.script(fault)
    done = pusher.push("--json", "--attempts=2")
    assert done.code == 0
    assert "Error" not in done.err
    assert done.summary["retries"] == 1
    assert acme.metadata() == DEVICES
    assert len(proxy.requests) == 2
    proxy.script(fault)
    last = pusher.push("--attempts=1")
    assert last.code == 1
    assert f"Lines 1 to 10 were not sent: {reason}" in last.err
    assert f"Error: all requests fail: {reason}" in last.err


def test_retry_after_delays_next_attempt(pusher: Client, proxy: FaultProxy) -> None:
    proxy.script(response(503, Retry_After="1"))
    done = pusher.push("--json")
    assert done.code == 0, done.err
    assert done.summary["retries"] == 1
    first, second = proxy.requests
    # A random delay of up to half a second is added.
    assert second.start - first.start >= 1


def test_retries_are_counted(pusher: Client, proxy: FaultProxy) -> None:
    proxy.script(response(500), faults.dropped_after, response(502))
    done = pusher.push("--attempts=4")
    assert done.code == 0
    assert "            3 requests retried\n" in done.out
    assert len(proxy.requests) == 4
    assert len({request.body for request in proxy.requests}) == 1


def test_run_ends_after_all_attempts_fail(pusher: Client, proxy: FaultProxy) -> None:
    proxy.choose = lambda request: response(500, "Internal server error")
    done = pusher.push("--attempts=3", "--batch-size=10", "--json")
    assert done.code == 1
    assert len(proxy.requests) == 3
    summary = done.summary
    assert summary["retries"] == 2
    assert summary["notSent"] == 10
    assert summary["resumable"]
    assert summary["failure"] == ("all requests fail: 500: Internal server error")
    assert not (pusher.directory / "fleet.ndjson.results.csv").exists()


def test_failing_batch_does_not_end_run(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    last = threading.Event()
    # When the last request arrives, others have got their responses.
    failing = faults.held(last, response(500))

    def choose(request: faults.Request) -> Fault:
        if "SN-9" in request.devices:
            last.set()
        return failing if "SN-3" in request.devices else faults.forwarded

    proxy.choose = choose
    done = pusher.push("--attempts=2", "--batch-size=2", "--concurrency=2", "--json")
    assert done.code == 1
    assert "Lines 3 to 4 were not sent: 500: status 500\n" in done.err
    summary = done.summary
    assert (summary["updated"], summary["notSent"]) == (8, 2)
    assert (summary["failure"], summary["resumable"]) == ("", True)
    left = {i for i, status in pusher.statuses().items() if status == "not_sent"}
    assert left == {"SN-2", "SN-3"}
    proxy.script()
    proxy.requests.clear()
    assert pusher.push("--resume").code == 0
    [request] = proxy.requests
    assert list(request.devices) == ["SN-2", "SN-3"]
    assert acme.metadata() == DEVICES
    assert not pusher.journal.exists()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            response(401, "Invalid or missing API key"),
            "401: Invalid or missing API key",
        ),
        (
            page(200, "Sign in"),
            '200 OK, page title "Sign in": the response is a web page. ',
        ),
        (
            response(301, b"", Location="https://host/"),
            "301 Moved Permanently: redirect to https://host/. Set --url to the final ",
        ),
        (
            faults.altered(lambda body: {**body, "results": body["results"][1:]}),
            'the response contains no result for line 1, device "SN-0"',
        ),
        (
            faults.altered(lambda body: {**body, "dryRun": True}),
            "The response does not confirm the dry run",
        ),
    ],
)
def test_permanent_failure_ends_run(
    pusher: Client, proxy: FaultProxy, fault: Fault, reason: str
) -> None:
    proxy.script(fault)
    done = pusher.push("--batch-size=1", "--concurrency=1")
    assert done.code == 1
    assert f"\nError: {reason}" in done.err
    assert done.err.endswith("run the same command with --resume.\n")
    assert len(proxy.requests) == 1
    assert not (pusher.directory / "fleet.ndjson.results.csv").exists()
    proxy.script()
    assert pusher.push("--resume").code == 0


def test_concurrent_failures_end_run_once(pusher: Client, proxy: FaultProxy) -> None:
    both = threading.Barrier(2)

    def fault(handler: faults.Handler) -> None:
        both.wait(60)
        response(401, "no")(handler)

    proxy.choose = lambda request: fault
    done = pusher.push("--batch-size=1", "--concurrency=2")
    assert done.code == 1
    assert done.err.count("401") == 1
    assert len(proxy.requests) == 2


def test_revoked_key_ends_run_and_new_key_resumes(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    def revoke(handler: faults.Handler) -> None:
        acme.cursor.execute("UPDATE api_keys SET revoked_at = now()")
        faults.forwarded(handler)

    proxy.script(*[faults.forwarded] * 4, revoke)
    done = pusher.push("--batch-size=1", "--concurrency=1")
    assert done.code == 1
    assert "            4 updated\n            6 not sent\n" in done.out
    assert done.err.endswith(
        "Error: 401: Invalid or missing API key.\n"
        "To continue, run the same command with --resume.\n"
    )
    assert len(proxy.requests) == 5
    pusher.key = acme.create_key()
    proxy.requests.clear()
    assert pusher.push("--resume").code == 0
    assert list(proxy.requests[-1].devices) == list(DEVICES)[4:]


def test_waiting_requests_stop_when_run_ends(pusher: Client, proxy: FaultProxy) -> None:
    proxy.script(response(503, Retry_After="300"), faults.delayed(0.5, response(401)))
    start = time.monotonic()
    done = pusher.push("--batch-size=5", "--concurrency=2")
    assert time.monotonic() - start < 100
    assert done.code == 1
    assert "Error: 401: status 401.\n" in done.err
    assert len(proxy.requests) == 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{free}", "no connection to 127.0.0.1:{free}: Connection r"),
        ("http://unknown.invalid", "no connection to unknown.invalid: "),
    ],
)
def test_refused_connection_is_retried(pusher: Client, url: str, reason: str) -> None:
    port = free_port()
    pusher.url = url.format(free=port)
    done = pusher.push("--attempts=2")
    assert done.code == 1
    assert f"Error: all requests fail: {reason.format(free=port)}" in done.err


@pytest.mark.parametrize(
    ("accepts", "reason"),
    [
        (True, "no complete response within 1 s"),
        (False, r"no connection to 127.0.0.1:\d+ within 1 s"),
    ],
)
def test_unresponsive_server_times_out(
    accepts: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (connection, transport):
        monkeypatch.setattr(module, "CONNECT_TIMEOUT", 1)
        monkeypatch.setattr(module, "RESPONSE_TIMEOUT", 1)
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server(("127.0.0.1", 0), backlog=0)
        )
        address = listener.getsockname()
        if not accepts:
            # The system drops connections beyond the backlog.
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
        sender = Transport(
            endpoint(f"http://127.0.0.1:{address[1]}"),
            "key",
            TlsFiles(),
            dry_run=False,
            connections=1,
            stop=threading.Event(),
        )
        with pytest.raises(RequestError, match=f"^{reason}$"):
            sender.replace(b"{}")


def test_https_to_plain_port_ends_run(pusher: Client, proxy: FaultProxy) -> None:
    pusher.url = f"https://127.0.0.1:{proxy.port}"
    done = pusher.push("--attempts=2")
    assert done.code == 1
    assert (
        f"Error: 127.0.0.1:{proxy.port} does not use TLS: use http:// in --url.\n"
        in done.err
    )


def test_broken_tls_handshake_is_retried(pusher: Client) -> None:
    accepted = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            accepted.append(connection)
            # With unread data, the connection would be reset.
            connection.recv(65536)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        spawn(serve, listener)
        pusher.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        done = pusher.push("--attempts=2")
    assert len(accepted) == 2
    assert "Error: all requests fail: the connection to 127.0.0.1:" in done.err


def test_invalid_host_name_ends_run(pusher: Client) -> None:
    pusher.url = f"http://{'a' * 70}.example"
    done = pusher.push("--attempts=1")
    assert done.code == 1
    assert f"Error: invalid host name {'a' * 70}.example.\n" in done.err


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://host", f"http://host{PATH}"),
        ("https://host/", f"https://host{PATH}"),
        ("http://host:8000//", f"http://host:8000{PATH}"),
        ("http://[::1]:8000", f"http://[::1]:8000{PATH}"),
        ("https://host/prefix/", f"https://host/prefix{PATH}"),
        (f"https://host{PATH}", f"https://host{PATH}"),
        (f"https://host/prefix{PATH}/", f"https://host/prefix{PATH}"),
        ("HTTP://HOST", f"http://HOST{PATH}"),
    ],
)
def test_url_leads_to_endpoint(url: str, address: str) -> None:
    assert endpoint(url) == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("host", "must be a URL such as https://host or http://host:8000"),
        ("ftp://host", "must be a URL such as https://host or http://host:8000"),
        ("http://", "must be a URL such as https://host or http://host:8000"),
        ("http://:8000", "must be a URL such as https://host or http://host:8000"),
        ("http://user:word@host", "must not contain a user, a password, or a query"),
        ("http://:word@host", "must not contain a user, a password, or a query"),
        ("http://host?dryRun=true", "must not contain a user, a password, or a query"),
        ("http://host/#there", "must not contain a user, a password, or a query"),
        ("http://host:99999", "must have a port from 0 to 65535, or none"),
        ("http://host:port", "must have a port from 0 to 65535, or none"),
    ],
)
def test_invalid_url_is_rejected(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        endpoint(url)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("host", "must be a URL such as https://host or http://host:8000"),
        ("http://[::1", "Invalid IPv6 URL"),
    ],
)
def test_invalid_url_ends_run(pusher: Client, url: str, reason: str) -> None:
    pusher.url = url
    done = pusher.push()
    assert done.code == 2
    assert done.err.endswith(f"Error: --url {reason}.\n")


def test_url_prefix_is_kept(pusher: Client, proxy: FaultProxy) -> None:
    proxy.choose = lambda request: lambda handler: handler.reply(handler.forward(PATH))
    pusher.url += "/behind/a/proxy"
    assert pusher.push().code == 0
    assert {request.path for request in proxy.requests} == {f"/behind/a/proxy{PATH}"}
