"""HTTP on real sockets, as gunicorn and its worker implement it."""

import gzip
import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_authentication import UNKNOWN
from tests.api.test_request import LIMIT, body_of
from tests.conftest import Organization
from tests.support.service import ANY_PORT, PATH, ROOT, Service, run_service
from tests.support.waiting import wait_until

INVALID = {"error": "Invalid JSON payload"}
TOO_LARGE = {"error": "Request body too large. Maximum 10485760 bytes"}
UNAUTHORIZED = {"error": "Invalid or missing API key"}

BODY = b'{"devices": {"SN-1": {"a": 1}}}'


def key(organization: Organization) -> dict[str, str]:
    return {"x-api-key": organization.key}


def head(organization: Organization, *lines: str) -> bytes:
    """Return a request head."""
    start = [f"POST {PATH} HTTP/1.1", "Host: x", f"x-api-key: {organization.key}"]
    return "\r\n".join([*start, *lines, "", ""]).encode()


def parsed(raw: bytes) -> tuple[int, Any]:
    """Return the status and the JSON of a single response."""
    start, _, body = raw.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in start
    return int(start.split()[1]), json.loads(body)


def receive(client: socket.socket) -> bytes:
    """Return one response, which may be followed by others."""
    received = b""
    while b"}" not in received:
        received += client.recv(65536)
    return received


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


def test_request_is_processed(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    response = service.request(BODY, key(acme))
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json["updated"] == 1
    assert acme.metadata() == {"SN-1": {"a": 1}}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["x-api-key: {key}", "x-api-key: {key}"],
        ["x-api-key: {key}", "X-API-KEY: " + UNKNOWN],
        ["x_api_key: {key}"],
        ["Authorization: Bearer {key}"],
        ["Cookie: x-api-key={key}"],
        ["x-api-key: " + "x" * 8192],
        ["x-api-key: tlm_\xe9\xff"],
        ["x-api-key: {key}\xa0"],
        ["x-api-key: {key}\x00"],
        ["x-api-key: \x00"],
        ["x-api-key: {key}\x01"],
    ],
    ids=lambda lines: repr(lines)[:40],
)
def test_invalid_key_header_is_rejected(
    lines: list[str], service: Service, acme: Organization
) -> None:
    request = [f"POST {PATH} HTTP/1.1", "Host: service", "Content-Length: 2", *lines]
    sent = "\r\n".join([*request, "Connection: close", "", "{}"])
    raw = service.send(sent.replace("{key}", acme.key).encode("latin-1"))
    assert parsed(raw) == (401, UNAUTHORIZED)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": " {key}  "},
        {"Content-Type": "application/x-www-form-urlencoded"},
        # gunicorn would accept these from clients on the same machine.
        {"SCRIPT_NAME": "/x", "PATH_INFO": "/y"},
        {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"},
        {"Host": ".."},
        {"Host": "x" * 70},
        {"Connection": "Upgrade", "Upgrade": "websocket"},
    ],
    ids=str,
)
def test_other_header_has_no_effect(
    headers: dict[str, str], service: Service, acme: Organization
) -> None:
    headers = {name: text.replace("{key}", acme.key) for name, text in headers.items()}
    assert service.request(BODY, {**key(acme), **headers}).status == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_method_is_rejected(method: str, service: Service) -> None:
    response = service.request(method=method)
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert response.json == {"error": "Method Not Allowed"}


@pytest.mark.parametrize(
    "path",
    [
        *("/", PATH + "/", PATH.replace("/ext", "//ext"), f"/{PATH}"),
        *("/%0d%0aLog:%20x", "/metrics"),
    ],
)
def test_other_path_is_rejected(path: str, service: Service) -> None:
    response = service.request("{}", path=path)
    assert (response.status, response.json) == (404, {"error": "Not Found"})


def test_every_response_has_headers(service: Service, acme: Organization) -> None:
    for response in (
        service.request('{"devices": {"SN-1": {}}}', key(acme)),
        service.request("{", key(acme)),
        service.request("{}"),
        service.request(path="/"),
        service.request(method="GET"),
        service.request("{}", {"x-api-key": "x" * 17_000}),
    ):
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Type"] == "application/json"
        # The name without the version.
        assert response.headers.get("Server", "gunicorn") == "gunicorn"


def pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (body_of(LIMIT), 200),
        (body_of(LIMIT + 1), 413),
        (b'{"devices": {"SN-1": {}}}'.ljust(LIMIT + 1), 413),
    ],
    ids=["limit", "limit + 1", "white space"],
)
def test_larger_body_is_rejected(
    body: bytes, status: int, chunked: bool, service: Service, acme: Organization
) -> None:
    """A body is never truncated at the limit and processed."""
    acme.insert("SN-1")
    before = acme.rows()
    sent = pieces(body) if chunked else body
    response = service.request(sent, key(acme), encode_chunked=chunked)
    assert response.status == status
    if status == 413:
        assert response.json == TOO_LARGE
        assert acme.rows() == before


@pytest.mark.parametrize("header", ["Connection: keep-alive", "Connection: close"])
@pytest.mark.parametrize(
    ("line", "status", "expected"),
    [
        (f"Content-Length: {2 * LIMIT}", 413, TOO_LARGE),
        (f"x-api-key: {UNKNOWN}\r\nContent-Length: 1000000", 401, UNAUTHORIZED),
        ("Transfer-Encoding: chunked", 401, UNAUTHORIZED),
        ("Content-Length: x", 400, {"error": "Invalid HTTP request"}),
    ],
)
def test_rejection_reaches_sending_client(
    line: str,
    status: int,
    expected: object,
    header: str,
    service: Service,
    acme: Organization,
) -> None:
    """The response does not wait for the body, and no reset destroys it."""
    start = head(acme, header, line)
    if status == 401:
        start = start.replace(acme.key.encode(), UNKNOWN.encode())
    with connect(service) as client:
        client.sendall(start)
        raw = receive(client)
        assert parsed(raw) == (status, expected)
        assert b"\r\nConnection: close\r\n" in raw
        for piece in pieces(bytes(5_000_000)):
            client.sendall(piece)
        assert client.recv(1) == b""
    with connect(service) as client:
        client.sendall(start + bytes(5_000_000))
        assert parsed(receive(client)) == (status, expected)


def test_connection_is_kept(service: Service, acme: Organization) -> None:
    """After an error, too, whose body is not mistaken for the next request."""
    acme.insert("SN-1")
    wrong = head(acme, f"Content-Length: {len(BODY)}").replace(b"tlm_", b"tlm-")
    with connect(service) as client:
        for request, status in (
            (head(acme, f"Content-Length: {len(BODY)}") + BODY, 200),
            (head(acme, "Content-Length: 1") + b"{", 400),
            (wrong + BODY, 401),
            (wrong.replace(PATH.encode(), b"/other") + BODY, 404),
            (head(acme, "Transfer-Encoding: chunked") + b"1\r\n{\r\n0\r\n\r\n", 400),
            (head(acme, f"Content-Length: {len(BODY)}") + BODY, 200),
        ):
            client.sendall(request)
            raw = receive(client)
            assert parsed(raw)[0] == status
            assert b"\r\nConnection: keep-alive\r\n" in raw


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"\r\n{}\r\n0\r\n\r\n",
        b"2 \r\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}xx0\r\n\r\n",
        b"f" * 17_000,
    ],
    ids=lambda chunks: repr(chunks[:12]),
)
def test_malformed_chunks_are_rejected(
    chunks: bytes, service: Service, acme: Organization
) -> None:
    start = head(acme, "Transfer-Encoding: chunked")
    assert parsed(service.send(start, chunks)) == (400, INVALID)
    start = start.replace(b"tlm_", b"tlm-")
    assert parsed(service.send(start, chunks)) == (401, UNAUTHORIZED)


def test_chunks_of_one_byte_are_joined(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    body = b'{"devices": {"SN-1": {"a": "\xc3\xa9"}}}'
    response = service.request(
        (bytes([byte]) for byte in body), key(acme), encode_chunked=True
    )
    assert response.status == 200
    assert acme.metadata() == {"SN-1": {"a": "é"}}


def test_compressed_body_is_rejected(service: Service, acme: Organization) -> None:
    headers = {"Content-Encoding": "gzip", **key(acme)}
    response = service.request(gzip.compress(BODY), headers)
    assert (response.status, response.json) == (400, INVALID)


def test_expect_100_continue_is_supported(service: Service, acme: Organization) -> None:
    start = head(acme, "Expect: 100-continue", f"Content-Length: {len(BODY)}")
    with connect(service) as client:
        client.sendall(start)
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert parsed(receive(client))[0] == 200


MESSAGES = {
    400: "Invalid HTTP request",
    414: "Request line too long",
    417: "Unsupported expectation",
    431: "Headers too large",
    501: "Unsupported transfer coding",
}
LENGTH = b"Content-Length: 1"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"hello", b"", b""], 400),
        ([b"GET / HTTP/9.9", b"", b""], 400),
        ([b"GET / HTTP/1.1\n\n"], 400),
        ([b"GET / HTTP/1.1", b"no colon", b"", b""], 400),
        ([b"POST / HTTP/1.1", b"Content-Length: x", b"", b""], 400),
        ([b"POST / HTTP/1.1", LENGTH, b"Content-Length: 2", b"", b""], 400),
        ([b"POST / HTTP/1.1", LENGTH, b"Transfer-Encoding: chunked", b"", b""], 400),
        ([b"GET /" + b"x" * 9000 + b" HTTP/1.1", b"", b""], 414),
        ([b"GET /" + b"x" * 70_000], 414),
        ([b"GET / HTTP/1.1", b"x: " + b"x" * 17_000, b"", b""], 431),
        ([b"GET / HTTP/1.1", *[b"x: y"] * 200, b"", b""], 431),
        ([b"GET / HTTP/1.1", *[b"x: y"] * 11_000], 431),
        ([b"POST / HTTP/1.1", b"Transfer-Encoding: zip", b"", b""], 501),
        ([b"POST / HTTP/1.1", b"Expect: miracles", b"", b""], 417),
    ],
    ids=lambda value: f"{str(value)[:60]} ({len(str(value))})",
)
def test_malformed_http_gets_json_error(
    lines: list[bytes], status: int, service: Service
) -> None:
    raw = service.send(b"\r\n".join(lines))
    assert parsed(raw) == (status, {"error": MESSAGES[status]})


def test_error_outside_application_is_logged(service_url: str, tmp_path: Path) -> None:
    """gunicorn rejects a path outside its SCRIPT_NAME with an exception."""
    log = tmp_path / "log"
    with run_service(log, DATABASE_URL=service_url, SCRIPT_NAME="/prefix") as service:
        response = service.request("{}", {"X-Request-ID": "night job"})
        assert (response.status, response.json) == (
            500,
            {"error": "Internal server error"},
        )
        assert response.headers["X-Request-ID"] == "night job"
        assert service.request("{}", path="/prefix" + PATH).status == 401
        [failed, _] = service.requests
    assert (failed["level"], failed["status"]) == ("error", 500)
    assert "ConfigurationProblem" in failed["exception"]


def run_gunicorn(service_url: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", *options],
        cwd=ROOT,
        env={**os.environ, **ANY_PORT, "DATABASE_URL": service_url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_control_socket_is_disabled(service_url: str) -> None:
    """gunicorn would open it some time after the start."""
    output = run_gunicorn(service_url, "--print-config").stdout
    assert re.search(r"^control_socket_disable += True$", output, re.MULTILINE)


def test_tls_is_rejected(service_url: str) -> None:
    process = run_gunicorn(service_url, "--certfile=x")
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        "TLS is not supported. Use a proxy, as in deploy/nginx.conf."
    )


def test_pipelined_requests_are_processed_in_order(
    service: Service, acme: Organization
) -> None:
    acme.insert(*(f"SN-{number}" for number in range(10)))
    requests = []
    for number in range(10):
        body = f'{{"devices": {{"SN-{number}": {{"a": {number}}}}}}}'.encode()
        requests.append(head(acme, f"Content-Length: {len(body)}") + body)
    last = requests.pop().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    # The tenth head arrives in two parts, the first one with the ninth request.
    raw = service.send(b"".join(requests) + last[:20], last[20:])
    assert re.findall(rb'HTTP/1.1 200|"identifier":"[^"]*"', raw) == [
        part
        for number in range(10)
        for part in (b"HTTP/1.1 200", b'"identifier":"SN-%d"' % number)
    ]
    assert acme.metadata() == {f"SN-{number}": {"a": number} for number in range(10)}


@pytest.mark.parametrize("clients", [1, 2, 8])
def test_connections_share_one_thread(
    clients: int, service_url: str, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-1")

    def send_requests(_: int) -> set[int]:
        statuses = set()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(20):
            connection.request("POST", PATH, BODY, key(acme))
            response = connection.getresponse()
            response.read()
            statuses.add(response.status)
        connection.close()
        return statuses

    settings = {"DATABASE_URL": service_url, "WORKERS": "1", "THREADS": "1"}
    with run_service(tmp_path / "log", **settings) as service:
        port = service.port
        with ThreadPoolExecutor(clients) as executor:
            assert set.union(*executor.map(send_requests, range(clients))) == {200}


def busy_connections(acme: Organization) -> list[tuple[str]]:
    acme.cursor.execute(
        "SELECT state FROM pg_stat_activity"
        " WHERE application_name = 'bulk-metadata' AND state <> 'idle'"
        " AND datname = current_database()"
    )
    return acme.cursor.fetchall()


def test_truncated_request_changes_nothing(
    service: Service, acme: Organization
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    for end in (*range(0, len(BODY), 5), len(BODY)):
        start = head(acme, f"Content-Length: {len(BODY) + 5}")
        raw = service.send(start, BODY[:end], half_close=True)
        assert parsed(raw) == (400, INVALID)
        start = head(acme, "Transfer-Encoding: chunked")
        raw = service.send(start, b"ff\r\n" + BODY[:end], half_close=True)
        assert parsed(raw) == (400, INVALID)
    assert acme.rows() == before


def test_disconnected_clients_occupy_no_thread(
    service: Service, acme: Organization
) -> None:
    """There are more such clients than threads."""
    acme.insert("SN-1")
    for _ in range(20):
        with connect(service) as client:
            client.sendall(head(acme, f"Content-Length: {len(BODY)}") + BODY)
    with ThreadPoolExecutor(8) as executor:
        responses = executor.map(lambda _: service.request(BODY, key(acme)), range(16))
        assert {response.status for response in responses} == {200}
    wait_until(lambda: not busy_connections(acme))
    assert acme.metadata() == {"SN-1": {"a": 1}}


def test_line_breaks_do_not_forge_log_entries(
    service: Service, acme: Organization
) -> None:
    before = service.log.read_text()
    entries = len(service.requests)
    body = json.dumps({"devices": {"SN\r\nERROR forged": {}, "SN-1\n": 1}})
    assert service.request(body.encode(), key(acme)).status == 400
    assert service.request(path="/%0d%0aERROR%20forged").status == 404
    assert service.log.read_text() == before
    [_, entry] = service.requests[entries:]
    assert entry["path"] == "/\r\nERROR forged"
