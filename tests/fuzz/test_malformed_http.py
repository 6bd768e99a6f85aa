"""Bytes that nobody means to send, on real sockets: an answer comes, and no harm."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from functools import partial
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.api.test_request import INVALID, NOT_JSON
from tests.api.test_validation import HARMLESS, REFUSED
from tests.conftest import Organization
from tests.support.hypothesis_settings import EXAMPLES, fuzz, show_progress
from tests.support.service import PATH, Answer, Service

EXISTING = ["SN-1", "SN-2", "é", "10"]

# What the README says of answers to requests; 500 is none of them.
STATUSES = {200, 400, 401, 404, 405, 413, 414, 417, 431, 501}


def encoded(body: Any) -> bytes:
    return (body if isinstance(body, str) else json.dumps(body)).encode()


# Every hostile body that we have thought of, and the answer to it.
HOSTILE = {
    **{case: (body, INVALID) for case, body in NOT_JSON.items()},
    **{
        case: (encoded(body), {"error": sentence})
        for case, (body, sentence) in REFUSED.items()
    },
}
VALID = [
    b'{"devices": {"SN-1": {"a": 1}}}',
    b'\xef\xbb\xbf{"devices": {" SN-1 ": {}, "SN-2": {"b": [1.50, -2e3, null]}}}',
    b'{"x": [true, false], "devices": {"\\u00e9": {"\\ud83d\\ude9a": "\\""}}}',
    '{"devices": {"é": {"🚚": "\\\\"}, "SN-UNKNOWN": {"a": {"b": {}}}}}'.encode(),
    *[b'{"devices": {"SN-1": ' + text.encode() + b"}}" for text in HARMLESS],
]
# Those that are short enough for a change to hit something.
SEEDS = [
    body
    for body in [*VALID, *(body for body, _ in HOSTILE.values())]
    if len(body) < 1000
]

BODY_TOKENS = [
    *[b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"-", b"+", b".", b"e", b"0"],
    *[b"\0", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x80\xa8"],
    *[b"\\ud800", b"\\udc00", b"\\u0000", b"\\u00", b"NaN", b"Infinity", b"1e400"],
    *[b"null", b"devices", b'"devices":', b"//", b"/**/", b" ", b"\r\n", b"\x0b"],
]
HEAD_TOKENS = [
    *[b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b":", b"\0", b"\xff", b"%00"],
    *[b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HEAD ", b"GET ", b"CONNECT ", b"*"],
    *[b"http://x/", b"//", b"?", b"#", b";", b"%zz", b"/../", b"[::1", b"@"],
    *[
        line + b"\r\n"
        for line in (
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: gzip, chunked",
            b"Content-Length: 5",
            b"Content-Length: 99999999999999999999",
            b"Content-Length: -1",
            b"Content-Length: \xb2",
            b"Connection: keep-alive",
            b"Connection: Upgrade, HTTP2-Settings",
            b"Upgrade: h2c",
            b"Expect: 100-continue",
            b"Host: x",
            b"Host: [",
            b"X-Forwarded-Proto: https",
            b"X-Forwarded-Ssl: on",
            b"SCRIPT_NAME: /x",
            b"Script-Name: /api",
            b"PATH_INFO: /x",
            b"REMOTE_USER: x",
            b"Cookie: \xff",
            b"Range: bytes=0-1",
            b"Content-Encoding: gzip",
            b"x-api-key: x",
        )
    ],
]


# Twice the one that finds most: all the others soon break what is around them.
KINDS = ["insert", "insert", "flip", "delete", "duplicate", "splice"]


def change(data: bytes, kind: str, at: int, length: int, other: bytes) -> bytes:
    """Return ``data``, changed at one place in the way that ``kind`` says."""
    at %= len(data) + 1
    start, middle, end = data[:at], data[at : at + length], data[at + length :]
    match kind:
        case "flip":
            flipped = bytes(byte ^ (1 << length % 8) for byte in data[at : at + 1])
            return start + flipped + data[at + 1 :]
        case "insert":
            return start + other + middle + end
        case "delete":
            return start + end
        case "duplicate":
            return start + middle + middle + end
        case _:
            return start + other[at % (len(other) + 1) :]  # spliced


@st.composite
def changed(draw: st.DrawFn, originals: list[bytes], tokens: list[bytes]) -> bytes:
    """Return one of the originals with a few changes to its bytes."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        kind = draw(st.sampled_from(KINDS))
        others = {
            "insert": st.sampled_from(tokens) | st.binary(max_size=4),
            "splice": st.sampled_from(originals),
        }.get(kind, st.just(b""))
        at, length = draw(st.integers(0, 2000)), draw(st.integers(1, 8))
        data = change(data, kind, at, length, draw(others))
    return data


@st.composite
def framed(draw: st.DrawFn, body: bytes) -> bytes:
    """Return ``body`` in chunks of any size, as any sender may write them."""
    cuts = draw(st.lists(st.integers(0, len(body)), max_size=6))
    edges = sorted({0, len(body), *cuts})
    frames = [
        draw(st.sampled_from([b"%x", b"%X", b"0%x", b"00000%x"])) % (end - start)
        + draw(st.sampled_from([b"", b"", b";x", b";x=y", b';x="y"']))
        + b"\r\n"
        + body[start:end]
        + b"\r\n"
        for start, end in pairwise(edges)
    ]
    trailer = draw(st.sampled_from([b"", b"", b"X-Trailer: y\r\n"]))
    return b"".join(frames) + b"0\r\n" + trailer + b"\r\n"


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def is_json(body: bytes) -> bool:
    """Judge independently of the service: with Python's own parser, made strict."""
    try:
        pairs = json.loads(
            body.removeprefix(b"\xef\xbb\xbf").decode(),
            object_pairs_hook=list,  # keeps the members that are repeated, too
            parse_constant=refuse_constant,
            parse_int=str,
            parse_float=str,
        )
        json.dumps(pairs, ensure_ascii=False).encode()  # not with a lone surrogate
    except ValueError:
        return False
    return True


def head(*lines: bytes) -> bytes:
    """Return the head of a request with the key's place in it."""
    start = [b"POST " + PATH.encode() + b" HTTP/1.1", b"Host: x", b"x-api-key: KEY"]
    return b"\r\n".join([*start, *lines, b"", b""])


def with_length(body: bytes, *lines: bytes) -> bytes:
    return head(b"Content-Length: %d" % len(body), *lines) + body


CHUNKED = head(b"Transfer-Encoding: chunked")


@dataclass
class Target:
    """The service, one organization that calls it, and one that must not notice."""

    service: Service
    acme: Organization
    globex: Organization

    def send(self, request: bytes) -> list[Answer]:
        """Send a request with Acme's key in it, and see that no harm is done."""
        show_progress()
        before, others = self.acme.rows(), self.globex.rows()
        received = self.exchange(request.replace(b"KEY", self.acme.key.encode()))
        answers = list(answers_in(received, b"HEAD " in request))
        # Who hangs up within the head has asked for nothing.
        assert answers or b"\r\n\r\n" not in request, received
        for answer in answers:
            event(f"status {answer.status}")
            check(answer)
        assert self.globex.rows() == others
        if all(answer.status != 200 for answer in answers):
            assert self.acme.rows() == before
        return answers

    def call(self, request: bytes) -> Answer:
        """Send a request that is HTTP, and return the one answer to it."""
        [answer] = self.send(request)
        return answer

    def exchange(self, request: bytes) -> bytes:
        """Return all that comes back; fail if nothing does for half a minute."""
        address = ("127.0.0.1", self.service.port)
        received = b""
        with socket.create_connection(address, timeout=30) as client:
            # The service may have refused and closed before all is sent.
            with suppress(ConnectionError):
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while data := client.recv(65536):
                    received += data
        return received


def answers_in(received: bytes, to_head: bool) -> Iterator[Answer]:
    """Take a connection's bytes apart, to the last one."""
    while received:
        start, end, rest = received.partition(b"\r\n\r\n")
        # gunicorn answers in the version that it was asked in, HTTP/1.3 if need be.
        assert re.match(rb"HTTP/1\.[0-9] [1-5][0-9][0-9] ", start), received
        assert end, received
        line, _, lines = start.partition(b"\r\n")
        status = int(line.split()[1])
        headers = dict(BytesHeaderParser().parsebytes(lines))
        received = rest
        if status == 100:
            continue
        length = int(headers["Content-Length"])
        received = rest[length:]
        # The answer to HEAD has the length of a body, and no body.
        if not rest and to_head:
            continue
        yield Answer(status, headers, rest[:length])


def check(answer: Answer) -> None:
    """Fail if the contract does not allow the answer to anything."""
    assert answer.status in STATUSES, answer
    assert answer.headers["Content-Type"] == "application/json"
    if answer.status != 200:
        assert answer.json.keys() == {"error"}
        assert isinstance(answer.json["error"], str)
        return
    assert answer.json.keys() == {"success", "updated", "notFound", "results"}
    assert answer.json["success"] is True
    results = answer.json["results"]
    assert answer.json["updated"] + answer.json["notFound"] == len(results) > 0
    for result in results:
        assert result.keys() == {"identifier", "deviceId", "status"}
        assert result["status"] == ("updated" if result["deviceId"] else "not_found")


@pytest.fixture
def target(service: Service, acme: Organization, globex: Organization) -> Target:
    acme.insert(*EXISTING)
    globex.insert(*EXISTING, "SN-UNKNOWN")
    return Target(service, acme, globex)


def see_json_judged(target: Target, body: bytes) -> None:
    answer = target.call(with_length(body))
    assert (answer.json == INVALID) is not is_json(body)
    if answer.status == 200:
        updated = {
            result["identifier"]
            for result in answer.json["results"]
            if result["status"] == "updated"
        }
        assert updated <= set(EXISTING)


@fuzz
@given(body=st.binary(max_size=200))
def test_random_bytes_as_body(body: bytes, target: Target) -> None:
    see_json_judged(target, body)


@fuzz
@given(body=changed(VALID, BODY_TOKENS) | changed(SEEDS, BODY_TOKENS))
def test_a_changed_body(body: bytes, target: Target) -> None:
    see_json_judged(target, body)


@fuzz
@given(request=st.binary(max_size=200) | st.binary().map(lambda end: CHUNKED + end))
def test_random_bytes_as_request(request: bytes, target: Target) -> None:
    target.send(request)


@fuzz
@given(request=changed([with_length(body) for body in VALID], HEAD_TOKENS))
def test_a_changed_request(request: bytes, target: Target) -> None:
    target.send(request)


@fuzz
@given(data=st.data())
def test_a_changed_head(data: st.DataObject, target: Target) -> None:
    """The body stays as it is, and what its bytes are taken for does not matter."""
    body = data.draw(st.sampled_from(VALID))
    lines = [b"Connection: close", b"Content-Length: %d" % len(body)]
    request = data.draw(changed([head(*lines)], HEAD_TOKENS)) + body
    target.send(request)


# There are a hundred of them, so each gets its share of the examples.
@pytest.mark.parametrize("case", HOSTILE)
@partial(fuzz, examples=2 + EXAMPLES // 100)
@given(data=st.data())
def test_any_framing_is_the_same_body(
    case: str, data: st.DataObject, target: Target
) -> None:
    body, refusal = HOSTILE[case]
    answer = target.call(CHUNKED + data.draw(framed(body)))
    assert (answer.status, answer.json) == (400, refusal)


@fuzz
@given(data=st.data())
def test_a_framing_of_what_is_valid(data: st.DataObject, target: Target) -> None:
    body = data.draw(st.sampled_from(VALID))
    answer = target.call(CHUNKED + data.draw(framed(body)))
    assert answer.status == 200


@fuzz
@given(data=st.data())
def test_a_changed_framing(data: st.DataObject, target: Target) -> None:
    frames = data.draw(framed(data.draw(st.sampled_from(VALID))))
    target.send(CHUNKED + data.draw(changed([frames], HEAD_TOKENS)))
