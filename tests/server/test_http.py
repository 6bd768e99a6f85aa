"""The service under gunicorn, on real sockets: what no test client can show."""

import gzip
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_authentication import UNKNOWN, wrong_keys
from tests.api.test_request import INVALID, LIMIT, NOT_JSON, body_of
from tests.api.test_validation import REFUSED
from tests.conftest import Organization
from tests.support.service import PATH, ROOT, Service, run_service

TOO_LARGE = {"error": "Request body too large. Maximum 10485760 bytes"}
UNAUTHORIZED = {"error": "Invalid or missing API key"}


def key(organization: Organization) -> dict[str, str]:
    return {"x-api-key": organization.key}


def head(organization: Organization, *lines: str) -> bytes:
    """Return the head of a request, to be followed by whatever a test sends."""
    return "\r\n".join(
        [
            f"POST {PATH} HTTP/1.1",
            "Host: service",
            f"x-api-key: {organization.key}",
            *lines,
            "",
            "",
        ]
    ).encode()


def parsed(raw: bytes) -> tuple[int, Any]:
    """Return the status and the JSON of a single raw answer."""
    start, _, body = raw.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in start
    return int(start.split()[1]), json.loads(body)


def test_a_call(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    answer = service.request('{"devices": {"SN-1": {"a": 1}}}', key(acme))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json["updated"] == 1
    assert acme.metadata() == {"SN-1": {"a": 1}}


# http.client sends latin-1 only; what else there is to send follows as bytes.
@pytest.mark.parametrize("case", sorted(wrong_keys("tlm_").keys() - {"other digits"}))
def test_a_wrong_key(case: str, service: Service, acme: Organization) -> None:
    answer = service.request("{", {"x-api-key": wrong_keys(acme.key)[case]})
    assert (answer.status, answer.json) == (401, UNAUTHORIZED)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["x-api-key: {key}", "x-api-key: {key}"],
        ["x-api-key: {key}", "X-API-KEY: " + UNKNOWN],
        ["x_api_key: {key}"],
        ["Authorization: Bearer {key}"],
        ["Cookie: x-api-key={key}"],
        ["x-api-key: tlm_\xe9\xff"],
        ["x-api-key: {key}\xa0"],
        ["x-api-key: {key}\x00"],
        ["x-api-key: \x00"],
        ["x-api-key: {key}\x01"],
    ],
    ids=repr,
)
def test_a_wrong_key_as_bytes(
    lines: list[str], service: Service, acme: Organization
) -> None:
    request = [f"POST {PATH} HTTP/1.1", "Host: service", "Content-Length: 2", *lines]
    sent = "\r\n".join([*request, "Connection: close", "", "{}"])
    raw = service.send(sent.replace("{key}", acme.key).encode("latin-1"))
    assert parsed(raw) == (401, UNAUTHORIZED)


def test_white_space_around_the_key_belongs_to_the_header(
    service: Service, acme: Organization
) -> None:
    answer = service.request('{"devices": {"x": {}}}', {"x-api-key": f" {acme.key}  "})
    assert answer.status == 200


@pytest.mark.parametrize("case", NOT_JSON)
def test_not_json(case: str, service: Service, acme: Organization) -> None:
    answer = service.request(NOT_JSON[case], key(acme))
    assert (answer.status, answer.json) == (400, INVALID)


@pytest.mark.parametrize("case", REFUSED)
def test_not_valid(case: str, service: Service, acme: Organization) -> None:
    body, sentence = REFUSED[case]
    text = body if isinstance(body, str) else json.dumps(body)
    answer = service.request(text.encode(), key(acme))
    assert (answer.status, answer.json) == (400, {"error": sentence})


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_another_method(method: str, service: Service) -> None:
    answer = service.request(method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert answer.json == {"error": "Method Not Allowed"}


def test_every_answer_has_the_headers_of_an_api(
    service: Service, acme: Organization
) -> None:
    for answer in (
        service.request('{"devices": {"SN-1": {}}}', key(acme)),
        service.request("{", key(acme)),
        service.request("{}"),
        service.request(path="/"),
        service.request(method="GET"),
        service.request("{}", {"x-api-key": "x" * 17_000}),
    ):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Type"] == "application/json"
        # A name, no version.
        assert answer.headers.get("Server", "gunicorn") == "gunicorn"


@pytest.mark.parametrize(
    "path", ["/", PATH + "/", PATH.replace("/ext", "//ext"), "/%0d%0aLog:%20x"]
)
def test_another_path(path: str, service: Service) -> None:
    answer = service.request("{}", path=path)
    assert (answer.status, answer.json) == (404, {"error": "Not Found"})


def pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


Send = Callable[[bytes], Any]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_up_to_the_limit_is_taken_and_one_byte_more_refused(
    chunked: bool, service: Service, acme: Organization
) -> None:
    def send(size: int) -> tuple[int, Any]:
        body = body_of(size)
        answer = service.request(
            pieces(body) if chunked else body, key(acme), encode_chunked=chunked
        )
        return answer.status, answer.json

    acme.insert("SN-1")
    assert send(LIMIT)[0] == 200
    before = acme.rows()
    # Valid JSON to the limit, and still not cut there and served.
    assert send(LIMIT + 1) == (413, TOO_LARGE)
    assert acme.rows() == before


def test_white_space_counts_too(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    body = b'{"devices": {"SN-1": {}}}'.ljust(LIMIT + 1)
    answer = service.request(pieces(body), key(acme), encode_chunked=True)
    assert (answer.status, answer.json) == (413, TOO_LARGE)
    assert acme.rows() == before


def test_a_client_that_sends_first_and_reads_later_hears_its_refusal(
    service: Service, acme: Organization
) -> None:
    for headers, refusal in ((key(acme), (413, TOO_LARGE)), ({}, (401, UNAUTHORIZED))):
        for more in ({}, {"Connection": "close"}):
            answer = service.request(b"x" * (LIMIT + 1_000_000), {**headers, **more})
            assert (answer.status, answer.json) == refusal


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
def test_malformed_chunks(chunks: bytes, service: Service, acme: Organization) -> None:
    start = head(acme, "Transfer-Encoding: chunked")
    assert parsed(service.send(start, chunks)) == (400, INVALID)


def test_malformed_chunks_behind_a_wrong_key(service: Service) -> None:
    start = f"POST {PATH} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    assert parsed(service.send(start, b"zz\r\n")) == (401, UNAUTHORIZED)


def test_chunks_of_a_byte(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    body = b'{"devices": {"SN-1": {"a": "\xc3\xa9"}}}'
    answer = service.request(
        (bytes([byte]) for byte in body), key(acme), encode_chunked=True
    )
    assert answer.status == 200
    assert acme.metadata() == {"SN-1": {"a": "é"}}


def test_a_compressed_body(service: Service, acme: Organization) -> None:
    body = gzip.compress(b'{"devices": {"SN-1": {}}}')
    answer = service.request(body, {"Content-Encoding": "gzip", **key(acme)})
    assert (answer.status, answer.json) == (400, INVALID)


def test_curls_content_type(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    answer = service.request(
        '{"devices": {"SN-1": {"a": 1}}}',
        {"Content-Type": "application/x-www-form-urlencoded", **key(acme)},
    )
    assert answer.status == 200


def test_expect_100_continue(service: Service, acme: Organization) -> None:
    body = b'{"devices": {"SN-1": {}}}'
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as client:
        client.sendall(
            head(
                acme,
                "Expect: 100-continue",
                f"Content-Length: {len(body)}",
                "Connection: close",
            )
        )
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        received = b""
        while data := client.recv(65536):
            received += data
    assert parsed(received)[0] == 200


MALFORMED = {
    "no HTTP": (b"hello\r\n\r\n", 400, "Invalid HTTP request"),
    "another version": (b"GET / HTTP/9.9\r\n\r\n", 400, "Invalid HTTP request"),
    "a bad header": (b"GET / HTTP/1.1\r\nbad\r\n\r\n", 400, "Invalid HTTP request"),
    "a bad length": (
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        400,
        "Invalid HTTP request",
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
        "Invalid HTTP request",
    ),
    "a length and chunks": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        400,
        "Invalid HTTP request",
    ),
    "a long line": (
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
        414,
        "Request line too long",
    ),
    "a long header": (
        b"GET / HTTP/1.1\r\nx: " + b"x" * 17_000 + b"\r\n\r\n",
        431,
        "Headers too large",
    ),
    "too many headers": (
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n",
        431,
        "Headers too large",
    ),
    "an unknown coding": (
        b"POST / HTTP/1.1\r\nTransfer-Encoding: zip\r\n\r\n",
        501,
        "Unsupported transfer coding",
    ),
    "an unknown expectation": (
        b"POST / HTTP/1.1\r\nExpect: miracles\r\n\r\n",
        417,
        "Unsupported expectation",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_gunicorn_refuses_is_json_as_well(case: str, service: Service) -> None:
    sent, status, sentence = MALFORMED[case]
    assert parsed(service.send(sent)) == (status, {"error": sentence})


def test_a_header_cannot_move_the_service(service: Service, acme: Organization) -> None:
    """gunicorn would take SCRIPT_NAME from clients on the same machine."""
    headers = {"SCRIPT_NAME": "/x", "PATH_INFO": "/y", **key(acme)}
    assert service.request('{"devices": {"SN-1": {}}}', headers).status == 200


def test_a_fault_outside_the_application_is_json_and_logged(
    service_url: str, tmp_path: Path
) -> None:
    """A path that gunicorn itself was told not to serve."""
    log = tmp_path / "log"
    with run_service(log, DATABASE_URL=service_url, SCRIPT_NAME="/prefix") as service:
        answer = service.request("{}", {"X-Request-ID": "night job"})
        assert (answer.status, answer.json) == (
            500,
            {"error": "Internal server error"},
        )
        assert answer.headers["X-Request-ID"] == "night job"
        assert service.request("{}", path="/prefix" + PATH).status == 401
        [failed, _] = service.requests
    assert (failed["level"], failed["status"]) == ("error", 500)
    assert "ConfigurationProblem" in failed["exception"]


def test_it_takes_commands_by_signals_alone(service_url: str) -> None:
    """gunicorn would also listen for them at a socket, opened some time after start."""
    process = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--print-config"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": service_url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert re.search(r"^control_socket_disable += True$", process.stdout, re.MULTILINE)


def test_a_connection_is_kept(service: Service, acme: Organization) -> None:
    """Also past refusals, whose bodies must not be taken for the next request."""
    acme.insert("SN-1")
    good = b'{"devices": {"SN-1": {"a": 1}}}'
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.connect()
    kept = connection.sock
    for body, headers, status in (
        (good, key(acme), 200),
        (b"{", key(acme), 400),
        (good, {}, 401),
        (b"x" * (LIMIT + 1_000_000), key(acme), 413),
        (good, key(acme), 200),
    ):
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        response.read()
        assert (response.status, connection.sock) == (status, kept)
    connection.close()


def test_requests_may_follow_before_the_answers(
    service: Service, acme: Organization
) -> None:
    acme.insert(*(f"SN-{number}" for number in range(10)))
    requests = []
    for number in range(10):
        body = f'{{"devices": {{"SN-{number}": {{"a": {number}}}}}}}'.encode()
        requests.append(head(acme, f"Content-Length: {len(body)}") + body)
    last = requests.pop().replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    raw = service.send(b"".join(requests), last)
    assert re.findall(rb'HTTP/1.1 200|"identifier":"[^"]*"', raw) == [
        part
        for number in range(10)
        for part in (b"HTTP/1.1 200", b'"identifier":"SN-%d"' % number)
    ]
    assert acme.metadata() == {f"SN-{number}": {"a": number} for number in range(10)}


@pytest.mark.parametrize("clients", [1, 2, 8])
def test_clients_that_never_pause_leave_nobody_waiting(
    clients: int, service_url: str, acme: Organization, tmp_path: Path
) -> None:
    """One thread, and more connections than that."""
    acme.insert("SN-1")

    def call_on(number: int) -> set[int]:
        statuses = set()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        for _ in range(50):
            connection.request("POST", PATH, b'{"devices": {"SN-1": {}}}', key(acme))
            response = connection.getresponse()
            response.read()
            statuses.add(response.status)
        connection.close()
        return statuses

    settings = {"DATABASE_URL": service_url, "WORKERS": "1", "THREADS": "1"}
    with run_service(tmp_path / "log", **settings) as service:
        port = service.port
        with ThreadPoolExecutor(clients) as executor:
            assert set.union(*executor.map(call_on, range(clients))) == {200}


def connections(acme: Organization) -> list[tuple[str, str | None]]:
    """Return what the service's connections are busy with."""
    acme.cursor.execute(
        "SELECT state, wait_event_type FROM pg_stat_activity"
        " WHERE application_name = 'bulk-metadata' AND state <> 'idle'"
        " AND datname = current_database()"
    )
    return acme.cursor.fetchall()


def test_a_client_gone_before_the_end_changes_nothing(
    service: Service, acme: Organization
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    body = b'{"devices": {"SN-1": {"a": 1}}}'
    for cut in (*range(0, len(body), 5), len(body)):
        # The length promises more than comes.
        start = head(acme, f"Content-Length: {len(body) + 5}")
        raw = service.send(start, body[:cut], half_close=True)
        assert parsed(raw) == (400, INVALID)
        start = head(acme, "Transfer-Encoding: chunked")
        raw = service.send(start, b"ff\r\n" + body[:cut], half_close=True)
        assert parsed(raw) == (400, INVALID)
    assert acme.rows() == before
    answer = service.request(body, key(acme))
    assert answer.status == 200


def test_a_client_gone_before_the_answer_leaves_nothing_behind(
    service: Service, acme: Organization
) -> None:
    """More such clients than there are threads, and the service serves on."""
    acme.insert("SN-1")
    body = b'{"devices": {"SN-1": {"a": 1}}}'
    request = head(acme, f"Content-Length: {len(body)}") + body
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", service.port)) as client:
            client.sendall(request)
    with ThreadPoolExecutor(8) as executor:
        answers = executor.map(lambda _: service.request(body, key(acme)), range(16))
        assert {answer.status for answer in answers} == {200}
    for _ in range(1000):
        if not connections(acme):
            break
        time.sleep(0.01)
    assert connections(acme) == []
    assert acme.metadata() == {"SN-1": {"a": 1}}


def test_a_line_break_in_an_identifier_or_path_makes_no_log_line(
    service: Service, acme: Organization
) -> None:
    before = service.log.read_text()
    lines = len(service.requests)
    body = json.dumps({"devices": {"SN\r\nERROR forged": {}, "SN-1\n": 1}})
    assert service.request(body.encode(), key(acme)).status == 400
    assert service.request(path="/%0d%0aERROR%20forged").status == 404
    assert service.log.read_text() == before
    [_, line] = service.requests[lines:]
    assert line["path"] == "/\r\nERROR forged"
