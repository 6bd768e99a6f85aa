"""Random and mutated requests on real sockets. Each gets a valid response."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from itertools import pairwise
from typing import Any, NoReturn

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from tests.api.test_request import INVALID, NOT_JSON
from tests.api.test_validation import HARMLESS, INVALID_BODIES
from tests.conftest import Organization
from tests.random_search import examples
from tests.support.service import PATH, Response, Service

EXISTING = ["SN-1", "SN-2", "é", "10"]

# The documented statuses except 500, which no request may cause.
STATUSES = {200, 400, 401, 404, 405, 413, 414, 417, 431, 501}


def encoded(body: Any) -> bytes:
    return (body if isinstance(body, str) else json.dumps(body)).encode()


# All invalid bodies of the other tests, with their responses.
HOSTILE = {
    **{case: (body, INVALID) for case, body in NOT_JSON.items()},
    **{
        case: (encoded(body), {"error": message})
        for case, (body, message) in INVALID_BODIES.items()
    },
}
VALID = [
    b'{"devices": {"SN-1": {"a": 1}}}',
    b'\xef\xbb\xbf{"devices": {" SN-1 ": {}, "SN-2": {"b": [1.50, -2e3, null]}}}',
    b'{"x": [true, false], "devices": {"\\u00e9": {"\\ud83d\\ude9a": "\\""}}}',
    '{"devices": {"é": {"🚚": "\\\\"}, "SN-UNKNOWN": {"a": {"b": {}}}}}'.encode(),
    *[b'{"devices": {"SN-1": ' + text.encode() + b"}}" for text in HARMLESS],
]
# Short bodies, in which a mutation is likely to matter.
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


# Insertions find most. The other mutations soon destroy the surrounding structure.
MUTATIONS = ["insert", "insert", "flip", "delete", "duplicate", "splice"]


def mutate(data: bytes, mutation: str, at: int, length: int, other: bytes) -> bytes:
    """Return ``data`` with one mutation at the offset ``at``."""
    at %= len(data) + 1
    start, middle, end = data[:at], data[at : at + length], data[at + length :]
    match mutation:
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
            return start + other[at % (len(other) + 1) :]  # splice


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes], tokens: list[bytes]) -> bytes:
    """Return one of the originals with a few mutations."""
    data = draw(st.sampled_from(originals))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        mutation = draw(st.sampled_from(MUTATIONS))
        others = {
            "insert": st.sampled_from(tokens) | st.binary(max_size=4),
            "splice": st.sampled_from(originals),
        }.get(mutation, st.just(b""))
        at, length = draw(st.integers(0, 2000)), draw(st.integers(1, 8))
        data = mutate(data, mutation, at, length, draw(others))
    return data


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    """Return ``body`` in chunks of any size, with any valid syntax."""
    cuts = draw(st.lists(st.integers(0, len(body)), max_size=6))
    edges = sorted({0, len(body), *cuts})
    chunks = [
        draw(st.sampled_from([b"%x", b"%X", b"0%x", b"00000%x"])) % (end - start)
        + draw(st.sampled_from([b"", b"", b";x", b";x=y", b';x="y"']))
        + b"\r\n"
        + body[start:end]
        + b"\r\n"
        for start, end in pairwise(edges)
    ]
    trailer = draw(st.sampled_from([b"", b"", b"X-Trailer: y\r\n"]))
    return b"".join(chunks) + b"0\r\n" + trailer + b"\r\n"


def reject_constant(name: str) -> NoReturn:
    raise ValueError(name)


def is_json(body: bytes) -> bool:
    """Return whether ``body`` is JSON, according to the strict parser of Python."""
    try:
        pairs = json.loads(
            body.removeprefix(b"\xef\xbb\xbf").decode(),
            object_pairs_hook=list,  # keeps repeated members
            parse_constant=reject_constant,
            parse_int=str,
            parse_float=str,
        )
        json.dumps(pairs, ensure_ascii=False).encode()  # rejects lone surrogates
    except ValueError:
        return False
    return True


def head(*lines: bytes) -> bytes:
    """Return a request head. ``KEY`` is replaced by the API key."""
    start = [b"POST " + PATH.encode() + b" HTTP/1.1", b"Host: x", b"x-api-key: KEY"]
    return b"\r\n".join([*start, *lines, b"", b""])


def with_length(body: bytes) -> bytes:
    return head(b"Content-Length: %d" % len(body)) + body


CHUNKED = head(b"Transfer-Encoding: chunked")


@st.composite
def mutated_head(draw: st.DrawFn) -> bytes:
    """Return a request with an unchanged body, whose bytes may end up in the head."""
    body = draw(st.sampled_from(VALID))
    lines = [b"Connection: close", b"Content-Length: %d" % len(body)]
    return draw(mutated([head(*lines)], HEAD_TOKENS)) + body


@st.composite
def mutated_chunks(draw: st.DrawFn) -> bytes:
    chunks = draw(chunked(draw(st.sampled_from(VALID))))
    return CHUNKED + draw(mutated([chunks], HEAD_TOKENS))


@dataclass
class Target:
    """The service, an organization that uses it, and one that must not be affected."""

    service: Service
    acme: Organization
    globex: Organization

    def send(self, request: bytes) -> list[Response]:
        """Send a request with the API key of Acme, and check its effects."""
        before, others = self.acme.rows(), self.globex.rows()
        received = self.exchange(request.replace(b"KEY", self.acme.key.encode()))
        responses = list(responses_in(received, b"HEAD " in request))
        # A client that disconnects within the head gets no response.
        assert responses or b"\r\n\r\n" not in request, received
        for response in responses:
            event(f"status {response.status}")
            check(response)
        assert self.globex.rows() == others
        if all(response.status != 200 for response in responses):
            assert self.acme.rows() == before
        return responses

    def exchange(self, request: bytes) -> bytes:
        """Return all bytes that the service sends. Fail after 30 s without one."""
        address = ("127.0.0.1", self.service.port)
        received = b""
        with socket.create_connection(address, timeout=30) as client:
            # The service may reject the request before it is complete.
            with suppress(ConnectionError):
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while data := client.recv(65536):
                    received += data
        return received


def responses_in(received: bytes, to_head: bool) -> Iterator[Response]:
    """Parse the responses of a connection."""
    while received:
        start, end, rest = received.partition(b"\r\n\r\n")
        # gunicorn repeats the HTTP version of the request.
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
        # A response to HEAD has the length of a body, but no body.
        if not rest and to_head:
            continue
        yield Response(status, headers, rest[:length])


def check(response: Response) -> None:
    """Fail if the contract does not allow the response to any request."""
    assert response.status in STATUSES, response
    assert response.headers["Content-Type"] == "application/json"
    if response.status != 200:
        assert response.json.keys() == {"error"}
        assert isinstance(response.json["error"], str)
        return
    assert response.json.keys() == {"success", "updated", "notFound", "results"}
    assert response.json["success"] is True
    results = response.json["results"]
    assert response.json["updated"] + response.json["notFound"] == len(results) > 0
    for result in results:
        assert result.keys() == {"identifier", "deviceId", "status"}
        assert result["status"] == ("updated" if result["deviceId"] else "not_found")


@pytest.fixture
def target(service: Service, acme: Organization, globex: Organization) -> Target:
    acme.insert(*EXISTING)
    globex.insert(*EXISTING, "SN-UNKNOWN")
    return Target(service, acme, globex)


BODIES = {
    "random": st.binary(max_size=200),
    "mutated": mutated(VALID, BODY_TOKENS) | mutated(SEEDS, BODY_TOKENS),
}


@pytest.mark.parametrize("case", BODIES)
@given(data=st.data())
def test_invalid_json_is_recognized(
    case: str, data: st.DataObject, target: Target
) -> None:
    body = data.draw(BODIES[case])
    [response] = target.send(with_length(body))
    assert (response.json == INVALID) is not is_json(body)
    if response.status == 200:
        updated = {
            result["identifier"]
            for result in response.json["results"]
            if result["status"] == "updated"
        }
        assert updated <= set(EXISTING)


REQUESTS = {
    "random": st.binary(max_size=200) | st.binary().map(lambda end: CHUNKED + end),
    "mutated": mutated([with_length(body) for body in VALID], HEAD_TOKENS),
    "mutated head": mutated_head(),
    "mutated chunks": mutated_chunks(),
}


@pytest.mark.parametrize("case", REQUESTS)
@given(data=st.data())
def test_any_request_gets_valid_response(
    case: str, data: st.DataObject, target: Target
) -> None:
    target.send(data.draw(REQUESTS[case]))


# About 100 bodies, so each one gets a share of the examples.
@pytest.mark.parametrize("case", HOSTILE)
@examples(3)
@given(data=st.data())
def test_chunks_do_not_change_error(
    case: str, data: st.DataObject, target: Target
) -> None:
    body, error = HOSTILE[case]
    [response] = target.send(CHUNKED + data.draw(chunked(body)))
    assert (response.status, response.json) == (400, error)


@given(data=st.data())
def test_chunks_do_not_change_valid_body(data: st.DataObject, target: Target) -> None:
    body = data.draw(st.sampled_from(VALID))
    [response] = target.send(CHUNKED + data.draw(chunked(body)))
    assert response.status == 200
