"""Reading the request: valid JSON, the body size, and disconnected clients."""

import io
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import IO

import pytest
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.api.request import (
    ClientDisconnectedError,
    read_body,
    require_connected,
)
from bulk_metadata.config import Config
from bulk_metadata.core.errors import ApiError
from tests.conftest import Organization, Post
from tests.support.service import PATH
from tests.support.waiting import wait_until

INVALID = {"error": "Invalid JSON payload"}

# Bodies that RFC 8259 does not allow, but some parsers accept.
NOT_JSON = {
    "nothing": b"",
    "white space": b" \r\n\t",
    "a word": b"devices",
    "cut": b'{"devices": {"SN-1": {}',
    "cut after an array": b"[1, 2",
    "trailing text": b'{"devices": {"SN-1": {}}} x',
    "two values": b'{"devices": {"SN-1": {}}}{"devices": {"SN-1": {}}}',
    "trailing comma": b'{"devices": {"SN-1": {},}}',
    "trailing comma in metadata": b'{"devices": {"SN-1": {"a": [1,]}}}',
    "single quotes": b"{'devices': {'SN-1': {}}}",
    "unquoted key": b"{devices: {}}",
    "comment": b'{"devices": {"SN-1": {}}} // comment',
    "NaN": b'{"devices": {"SN-1": {"a": NaN}}}',
    "Infinity": b'{"devices": {"SN-1": {"a": Infinity}}}',
    "-Infinity": b'{"devices": {"SN-1": {"a": -Infinity}}}',
    "NaN outside devices": b'{"devices": {"SN-1": {}}, "a": NaN}',
    "leading zero": b'{"devices": {"SN-1": {"a": 01}}}',
    "leading plus": b'{"devices": {"SN-1": {"a": +1}}}',
    "no digit after the point": b'{"devices": {"SN-1": {"a": 1.}}}',
    "no digit before the point": b'{"devices": {"SN-1": {"a": .5}}}',
    "no digit in the exponent": b'{"devices": {"SN-1": {"a": 1e}}}',
    "hexadecimal": b'{"devices": {"SN-1": {"a": 0x10}}}',
    "unknown escape": b'{"devices": {"SN-1": {"a": "\\x41"}}}',
    "short escape": b'{"devices": {"SN-1": {"a": "\\u12"}}}',
    "raw control character": b'{"devices": {"SN-1": {"a": "\x01"}}}',
    "raw NUL": b'{"devices": {"SN-1": {"a": "\x00"}}}',
    "raw line break": b'{"devices": {"SN-1": {"a": "\n"}}}',
    "high surrogate": b'{"devices": {"SN-1": {"a": "\\ud800"}}}',
    "high surrogate before text": b'{"devices": {"SN-1": {"a": "\\ud800 and so on"}}}',
    "low surrogate": b'{"devices": {"SN-1": {"a": "\\udc00"}}}',
    "surrogates reversed": b'{"devices": {"SN-1": {"a": "\\udc00\\ud800"}}}',
    "surrogate and letter": b'{"devices": {"SN-1": {"a": "\\ud800\\u0041"}}}',
    "surrogate in a member name": b'{"devices": {"SN-1": {"\\ud800": 1}}}',
    "surrogate in an identifier": b'{"devices": {"\\ud800": {}}}',
    "surrogate outside devices": b'{"\\ud800": 1, "devices": {"SN-1": {}}}',
    "surrogate encoded": b'{"devices": {"SN-1": {"a": "\xed\xa0\x80"}}}',
    "not UTF-8 in a string": b'{"devices": {"SN-1": {"a": "\xff"}}}',
    "not UTF-8 in an identifier": b'{"devices": {"SN-\xff": {}}}',
    "not UTF-8 outside devices": b'{"devices": {"SN-1": {}}, "a": "\xff"}',
    "overlong UTF-8": b'{"devices": {"SN-1": {"a": "\xc0\xaf"}}}',
    "latin-1": '{"devices": {"SN-1": {"a": "é"}}}'.encode("latin-1"),
    "UTF-16": '{"devices": {"SN-1": {}}}'.encode("utf-16"),
    "UTF-32": '{"devices": {"SN-1": {}}}'.encode("utf-32"),
    "two byte order marks": b"\xef\xbb\xbf\xef\xbb\xbf" + b'{"devices": {"SN-1": {}}}',
    "another kind of space": '{"devices":\u00a0{"SN-1": {}}}'.encode(),
    "gzip": bytes.fromhex("1f8b0800000000000003ab4e492dcb4c4e2d56b2aaae05002e1f1e")
    + b"",
    "a form": b"devices=SN-1",
    "100,000 levels": (
        b'{"devices": {"SN-1": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}}"
    ),
    "100,000 levels of objects": (
        b'{"devices": {"SN-1": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_002
    ),
    "100,000 levels outside devices": (
        b'{"devices": {"SN-1": {}}, "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    ),
    "a million brackets": b"[" * 1_000_000,
    "a million braces": b'{"a":' * 1_000_000,
}


@pytest.mark.parametrize("case", NOT_JSON)
def test_invalid_json_is_rejected(case: str, post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    response = post(NOT_JSON[case])
    assert (response.status_code, response.json) == (400, INVALID)
    assert acme.rows() == before


@pytest.mark.parametrize(
    ("depth", "bracket"), [(200, "[]"), (200, "{}"), (900, "[]")], ids=str
)
def test_deep_metadata_is_stored(
    depth: int, bracket: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    opening = bracket[0] + ('"a":' if bracket == "{}" else "")
    text = opening * depth + "1" + bracket[1] * depth
    body = '{"devices": {"SN-1": {"a": ' + text + "}}}"
    assert post(body).status_code == 200
    assert acme.texts()["SN-1"].replace(" ", "") == '{"a":' + text + "}"


@pytest.mark.parametrize("first", ["", '"devices": 1, '], ids=["once", "twice"])
def test_any_depth_is_stored_or_rejected(
    first: str, post: Post, acme: Organization
) -> None:
    """The limit depends on the stack: a repeated "devices" is parsed again, deeper."""
    acme.insert("SN-1")
    start = "{" + first + '"devices": {"SN-1": {"a": '
    statuses = [
        post(start + "[" * depth + "]" * depth + "}}}").status_code
        for depth in range(900, 1020)
    ]
    assert set(statuses) <= {200, 400}
    assert statuses == sorted(statuses)


def test_depth_beyond_postgresql_limit_is_rejected(
    acme: Organization, config: Config, owner_url: str
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    url = make_dsn(owner_url, options="-c max_stack_depth=100kB")
    response = (
        create_app(replace(config, database_url=url))
        .test_client()
        .post(
            PATH,
            data='{"devices": {"SN-1": {"a": ' + "[" * 800 + "]" * 800 + "}}}",
            headers={"x-api-key": acme.key},
        )
    )
    assert (response.status_code, response.json) == (400, INVALID)
    assert acme.rows() == before


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", "\xff"],
)
def test_content_type_is_ignored(
    content_type: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    body = {"devices": {"SN-1": {"a": 1}}}
    assert post(body, **{"content-type": content_type}).status_code == 200
    assert acme.metadata() == {"SN-1": {"a": 1}}


def test_byte_order_mark_is_skipped(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    body = b"\xef\xbb\xbf" + b'{"devices": {"SN-1": {"a": "\xef\xbb\xbf"}}}'
    assert post(body).status_code == 200
    assert acme.metadata() == {"SN-1": {"a": "\ufeff"}}


LIMIT = 10 * 1024 * 1024


def body_of(size: int) -> bytes:
    start, end = b'{"devices": {"SN-1": {"a": "', b'"}}}'
    return start + b"x" * (size - len(start) - len(end)) + end


def test_body_of_10_mib_is_accepted(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    assert post(body_of(LIMIT)).status_code == 200
    assert len(acme.metadata()["SN-1"]["a"]) == LIMIT - 32


def test_larger_body_is_rejected(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    response = post(body_of(LIMIT + 1))
    assert response.status_code == 413
    assert response.json == {"error": "Request body too large. Maximum 10485760 bytes"}
    assert acme.rows() == before


@pytest.mark.parametrize(
    ("body", "content_length", "status"),
    [
        (b"", None, 200),
        (b"12", None, 200),
        (b"12", 2, 200),
        (b"1", 2, 400),
        (b"1234", None, 413),
        (b"", 3, 413),
    ],
)
def test_body_is_read_up_to_limit(
    body: bytes, content_length: int | None, status: int
) -> None:
    stream = io.BytesIO(body)
    assert read_status(stream, content_length, 2) == status
    assert stream.tell() <= 3


def read_status(stream: IO[bytes], content_length: int | None, limit: int) -> int:
    try:
        read_body(stream, content_length, limit)
    except ApiError as error:
        return error.status
    return 200


def test_document_of_9_mb_is_stored(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    metadata = {str(number): "x" * 80 for number in range(100_000)}
    assert post(json.dumps({"devices": {"SN-1": metadata}})).status_code == 200
    assert acme.metadata() == {"SN-1": metadata}


Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The two ends of a TCP connection, whose client has sent data."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        client.sendall(b"request")
        assert server.recv(7) == b"request"
        yield client, server


def age_of_data(client: socket.socket) -> int:
    """Return the milliseconds since the client has sent data."""
    info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 48)
    [age] = struct.unpack_from("I", info, 44)
    return int(age)


def is_connected(server: socket.socket) -> bool:
    try:
        require_connected(server)
    except ClientDisconnectedError:
        return False
    return True


def test_half_closed_client_is_connected(pair: Pair) -> None:
    client, server = pair
    assert is_connected(server)
    # The last byte and the end of the stream are one segment.
    client.send(b"x", socket.MSG_MORE)
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) + server.recv(1) == b"x"
    assert is_connected(server)
    wait_until(lambda: age_of_data(client) > 600, "the timeout")
    assert is_connected(server)


def test_late_close_counts_as_disconnect(pair: Pair) -> None:
    client, server = pair
    wait_until(lambda: age_of_data(client) > 600, "the timeout")
    assert is_connected(server)
    client.close()
    assert server.recv(1) == b""
    assert not is_connected(server)


def test_reset_counts_as_disconnect(pair: Pair) -> None:
    client, server = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    wait_until(lambda: not is_connected(server))
    with server.makefile("rb") as stream:
        assert read_status(stream, 1, 1) == 400
