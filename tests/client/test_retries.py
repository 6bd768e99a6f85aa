"""What is tried again, how often and when; and what is not."""

import email.utils
import socket
import threading
import time
from contextlib import ExitStack

import pytest

from bulk_metadata.client import transport
from bulk_metadata.client.retry import Unanswered
from bulk_metadata.client.transport import endpoint
from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, numbered
from tests.support.fault_proxy import Fault, Proxy, answered
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
        (faults.dropped_before, "the connection was lost"),
        (faults.dropped_after, "the connection was lost"),
        (faults.halved, "the connection was lost"),
        (faults.garbled, "the connection was lost"),
        (answered(500, "Internal server error"), "500: Internal server error"),
        (answered(502, b"<html>"), "502 Bad Gateway"),
        (answered(503, b"[" * 100_000), "503 Service Unavailable"),
        (answered(504, b""), "504 Gateway Timeout"),
        (answered(429, "slow\ndown\x1b[2J"), r"429: slow\ndown\x1b[2J"),
        (answered(200, b"<html>"), "200, but not the API's answer: "),
        (answered(200, b'{"results": [{"ident'), "200, but not the API's answer: "),
        (answered(200, b'{"x":' + b"[" * 100_000), "200, but not the API's answer: "),
        (
            answered(200, b"{}", Content_Encoding="gzip"),
            "an answer that cannot be read: ",
        ),
        (
            faults.altered(lambda answer: {**answer, "results": [{"deviceId": ""}]}),
            "200, but not the API's answer: ",
        ),
    ],
)
def test_what_may_pass_is_tried_again(
    pusher: Client, proxy: Proxy, acme: Organization, fault: Fault, reason: str
) -> None:
    proxy.script(fault)
    done = pusher.push("--json", "--attempts=2")
    assert (done.code, done.err) == (0, "Reading ...\nChecking ...\nSending ...\n")
    assert done.summary["retries"] == 1
    assert acme.metadata() == DEVICES
    assert len(proxy.calls) == 2
    proxy.script(fault)
    last = pusher.push("--attempts=1")
    assert last.code == 1
    assert f"No answer for lines 1 to 10: {reason}" in last.err
    assert f"Failed: no call was answered any more: {reason}" in last.out


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2),
        ("date", 2),
        ("0", 0),
        ("-5", 0),
        ("nonsense", 0),
        ("9" * 5000, 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_the_server_is_left_alone_as_long_as_it_asks(
    pusher: Client, proxy: Proxy, value: str, seconds: float
) -> None:
    def fault(exchange: faults.Exchange) -> None:
        # A date has whole seconds, so it is one more.
        date = email.utils.formatdate(time.time() + seconds + 1, usegmt=True)
        sent = date if value == "date" else value
        answered(503, Retry_After=sent)(exchange)

    proxy.script(fault)
    done = pusher.push("--json")
    assert done.code == 0, done.err
    assert done.summary["retries"] == 1
    first, second = proxy.calls
    assert second.start - first.start >= seconds
    # Half a second at most, and none of the hour that is the most.
    assert second.start - first.start < 600


def test_attempts_and_retries_are_counted(pusher: Client, proxy: Proxy) -> None:
    proxy.script(answered(500), faults.dropped_after, answered(502))
    done = pusher.push("--attempts=4")
    assert done.code == 0
    assert "            3 calls sent again\n" in done.out
    assert len(proxy.calls) == 4
    assert len({call.body for call in proxy.calls}) == 1


def test_all_attempts_are_used_up(pusher: Client, proxy: Proxy) -> None:
    proxy.choose = lambda call: answered(500, "Internal server error")
    done = pusher.push("--attempts=3", "--batch-size=10", "--json")
    assert done.code == 1
    assert len(proxy.calls) == 3
    summary = done.summary
    assert summary["retries"] == 2
    assert summary["notSent"] == 10
    assert not summary["resumable"]
    assert summary["failure"] == (
        "no call was answered any more: 500: Internal server error"
    )
    assert set(pusher.statuses().values()) == {"not_sent"}
    assert not pusher.journal.exists()


def test_devices_without_an_answer_are_left_while_others_have_one(
    pusher: Client, proxy: Proxy, acme: Organization
) -> None:
    last = threading.Event()
    # Once the last call is there, others have had their answers.
    failing = faults.held(last, answered(500))

    def choose(call: faults.Call) -> Fault:
        if "SN-9" in call.devices:
            last.set()
        return failing if "SN-3" in call.devices else faults.passed_on

    proxy.choose = choose
    done = pusher.push("--attempts=2", "--batch-size=2", "--concurrency=2", "--json")
    assert done.code == 1
    assert "No answer for lines 3 to 4: 500: status 500\n" in done.err
    summary = done.summary
    assert (summary["updated"], summary["notSent"]) == (8, 2)
    assert (summary["failure"], summary["resumable"]) == ("", True)
    left = {i for i, status in pusher.statuses().items() if status == "not_sent"}
    assert left == {"SN-2", "SN-3"}
    proxy.script()
    proxy.calls.clear()
    assert pusher.push("--resume").code == 0
    [call] = proxy.calls
    assert list(call.devices) == ["SN-2", "SN-3"]
    assert acme.metadata() == DEVICES
    assert not pusher.journal.exists()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            answered(401, "Invalid or missing API key"),
            "401: Invalid or missing API key",
        ),
        (answered(403, b"<html>no"), "403 Forbidden"),
        (answered(404, b"<html>nothing"), "404 Not Found"),
        (answered(405), "405: status 405"),
        (
            answered(301, b"", Location="https://host/"),
            "301 Moved Permanently to https://host/",
        ),
        (answered(204, b""), "204 No Content"),
        (
            faults.altered(lambda answer: {**answer, "results": answer["results"][1:]}),
            "The answer does not name the device 'SN-0'.",
        ),
        (
            faults.altered(lambda answer: {**answer, "dryRun": True}),
            "The service did not keep to what a dry run is.",
        ),
    ],
)
def test_what_never_passes_ends_the_run(
    pusher: Client, proxy: Proxy, fault: Fault, reason: str
) -> None:
    proxy.script(fault)
    done = pusher.push("--batch-size=1", "--concurrency=1")
    assert done.code == 1
    assert f"Failed: {reason}\n" in done.out
    # No thread had begun another one.
    assert len(proxy.calls) == 1
    assert set(pusher.statuses().values()) == {"not_sent"}
    assert not pusher.journal.exists()


def test_two_calls_that_never_pass_end_the_run_once(
    pusher: Client, proxy: Proxy
) -> None:
    both = threading.Barrier(2)

    def fault(exchange: faults.Exchange) -> None:
        both.wait(60)
        answered(401, "no")(exchange)

    proxy.choose = lambda call: fault
    done = pusher.push("--batch-size=1", "--concurrency=2")
    assert done.code == 1
    assert done.out.count("401") == 1
    assert len(proxy.calls) == 2


def test_a_key_that_is_revoked_meanwhile(
    pusher: Client, proxy: Proxy, acme: Organization
) -> None:
    def revoke(exchange: faults.Exchange) -> None:
        acme.cursor.execute("UPDATE api_keys SET revoked_at = now()")
        faults.passed_on(exchange)

    proxy.script(*[faults.passed_on] * 4, revoke)
    done = pusher.push("--batch-size=1", "--concurrency=1")
    assert done.code == 1
    assert "            4 updated\n            6 not sent\n" in done.out
    assert "Failed: 401: Invalid or missing API key\n" in done.out
    assert done.out.endswith("Go on with the same command and --resume.\n")
    assert len(proxy.calls) == 5
    pusher.key = acme.create_key()
    proxy.calls.clear()
    assert pusher.push("--resume").code == 0
    assert [i for call in proxy.calls for i in call.devices] == list(DEVICES)[4:]


def test_others_that_wait_to_try_again_do_not_once_the_run_ends(
    pusher: Client, proxy: Proxy
) -> None:
    proxy.script(answered(503, Retry_After="300"), faults.delayed(0.5, answered(401)))
    start = time.monotonic()
    done = pusher.push("--batch-size=5", "--concurrency=2")
    assert time.monotonic() - start < 100
    assert done.code == 1
    assert "Failed: 401: status 401\n" in done.out
    assert len(proxy.calls) == 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{free}", "no connection: Connection refused"),
        ("http://nobody.invalid", "no connection: "),
    ],
)
def test_nobody_is_there(pusher: Client, url: str, reason: str) -> None:
    pusher.url = url.format(free=free_port())
    done = pusher.push("--attempts=2")
    assert done.code == 1
    assert f"Failed: no call was answered any more: {reason}" in done.out


@pytest.mark.parametrize(
    ("accepts", "reason"),
    [(True, "no answer within 1 s"), (False, "no connection within 1 s")],
)
def test_nobody_answers(
    accepts: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # None of a minute's waiting here.
    monkeypatch.setattr(transport, "CONNECT_TIMEOUT", 1)
    monkeypatch.setattr(transport, "READ_TIMEOUT", 1)
    with ExitStack() as stack:
        listener = stack.enter_context(
            socket.create_server(("127.0.0.1", 0), backlog=0)
        )
        address = listener.getsockname()
        if not accepts:
            # The one that may wait to be accepted; the system drops all others.
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(address)
        called = transport.Api(
            endpoint(f"http://127.0.0.1:{address[1]}"),
            "key",
            dry_run=False,
            connections=1,
            attempts=1,
            stop=threading.Event(),
            on_retry=pytest.fail,
        )
        with pytest.raises(Unanswered, match=f"^{reason}$"):
            called.replace(b"{}")


def test_tls_where_there_is_none(pusher: Client, proxy: Proxy) -> None:
    pusher.url = f"https://127.0.0.1:{proxy.port}"
    done = pusher.push("--attempts=2")
    assert done.code == 1
    assert "Failed: No secure connection: " in done.out


def test_tls_that_breaks_off_is_tried_again(pusher: Client) -> None:
    accepted = []

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            accepted.append(connection)
            # Less than the client says first, so that it is answered with no reset.
            connection.recv(65536)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        spawn(serve, listener)
        pusher.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        done = pusher.push("--attempts=2")
    assert len(accepted) == 2
    assert "no call was answered any more: the connection was lost\n" in done.out


def test_a_host_that_the_name_system_cannot_hold(pusher: Client) -> None:
    pusher.url = f"http://{'a' * 70}.example"
    done = pusher.push("--attempts=1")
    assert done.code == 1
    assert "Failed: No connection: " in done.out


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
def test_addresses(url: str, address: str) -> None:
    assert endpoint(url) == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("host", "must be like https://host or http://host:8000"),
        ("ftp://host", "must be like https://host or http://host:8000"),
        ("http://", "must be like https://host or http://host:8000"),
        ("http://:8000", "must be like https://host or http://host:8000"),
        ("http://user:word@host", "must be an address alone: no user, no query"),
        ("http://host?dryRun=true", "must be an address alone: no user, no query"),
        ("http://host/#there", "must be an address alone: no user, no query"),
        ("http://host:99999", "must have a port from 0 to 65535, or none"),
        ("http://host:port", "must have a port from 0 to 65535, or none"),
    ],
)
def test_no_addresses(pusher: Client, url: str, reason: str) -> None:
    pusher.url = url
    done = pusher.push()
    assert done.code == 2
    assert done.err.endswith(f"Error: --url {reason}.\n")


def test_an_address_that_no_parser_takes(pusher: Client) -> None:
    pusher.url = "http://[::1"
    done = pusher.push()
    assert done.code == 2
    assert "Error: --url " in done.err


def test_a_prefix(pusher: Client, proxy: Proxy) -> None:
    proxy.choose = lambda call: lambda exchange: exchange.reply(exchange.forward(PATH))
    pusher.url += "/behind/a/proxy"
    assert pusher.push().code == 0
    assert {call.path for call in proxy.calls} == {f"/behind/a/proxy{PATH}"}
