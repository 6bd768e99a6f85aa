"""The access log, and the request ID that connects a response to its entry."""

import io
import re
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.telemetry import access_log
from tests.conftest import Organization, Post
from tests.support.service import PATH, Service, run_service


def lines(service: Service, request_id: str) -> list[dict[str, Any]]:
    return [line for line in service.requests if line["requestId"] == request_id]


def test_request_is_logged(service: Service, acme: Organization) -> None:
    acme.insert("SN-1", "SN-2")
    body = '{"devices": {"SN-1": {"a": "private"}, "SN-2": {}, "SN-3": {}}}'
    headers = {"x-api-key": acme.key, "X-Request-ID": "night job, 1st try"}
    response = service.request(body, headers, path=PATH + "?key=secret")
    assert response.headers["X-Request-ID"] == "night job, 1st try"
    [line] = lines(service, "night job, 1st try")
    acme.cursor.execute(
        "SELECT id FROM api_keys WHERE organization_id = %s", (acme.id,)
    )
    [[key_id]] = acme.cursor.fetchall()
    age = datetime.now().astimezone() - datetime.fromisoformat(line.pop("time"))
    assert timedelta(0) <= age < timedelta(hours=1)
    assert 0 < line.pop("databaseMs") < line.pop("totalMs")
    assert line == {
        "level": "info",
        "requestId": "night job, 1st try",
        "method": "POST",
        "path": PATH,
        "status": 200,
        "organizationId": acme.id,
        "keyId": key_id,
        "devices": 3,
        "updated": 2,
        "notFound": 1,
        "retries": 0,
        "bytes": len(body),
    }


def test_rejected_request_is_logged(service: Service, acme: Organization) -> None:
    service.request("{}", {"X-Request-ID": "no key"})
    service.request("{}", {"x-api-key": acme.key, "X-Request-ID": "no devices"})
    service.request(path="/elsewhere", headers={"X-Request-ID": "no endpoint"})
    known = {
        (line["status"], line["organizationId"], line["bytes"], line["devices"])
        for request_id in ("no key", "no devices", "no endpoint")
        for line in lines(service, request_id)
    }
    assert known == {
        (401, None, 0, None),
        (400, acme.id, 2, None),
        (404, None, 0, None),
    }


def test_malformed_http_is_logged(service: Service) -> None:
    raw = service.send(b"GET / HTTP/9\r\n\r\n")
    [request_id] = re.findall(rb"X-Request-ID: ([0-9a-f]{32})\r\n", raw)
    [line] = lines(service, request_id.decode())
    assert (line["status"], line["level"]) == (400, "info")


def test_keys_and_metadata_are_not_logged(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    for key in (acme.key, acme.key[:-1]):
        headers = {"x-api-key": key, "X-Request-ID": f"for {key}"}
        for path in (PATH, f"{PATH}?key={key}", f"/{key}"):
            body = '{"devices": {"SN-1": {"member": "private"}}}'
            service.request(body, headers, path=path)
    for log in (service.log, service.log.with_suffix(".requests")):
        text = log.read_text()
        assert "private" not in text
        assert "member" not in text
        assert acme.key[4:-1] not in text


def test_traceback_of_failure_is_logged(
    tmp_path: Path, service_url: str, acme: Organization
) -> None:
    down = "postgresql://127.0.0.1:1/down"
    with run_service(tmp_path / "log", DATABASE_URL=down) as service:
        response = service.request("{}", {"x-api-key": acme.key})
        [line] = service.requests
    assert response.status == 500
    assert response.headers["X-Request-ID"] == line["requestId"]
    assert (line["level"], line["status"]) == ("error", 500)
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert "Connection refused" in line["exception"]


@pytest.mark.parametrize("request_id", ["1", "a b", "~" * 128, "{}\"\\'%s"])
def test_valid_request_id_is_kept(client: FlaskClient, request_id: str) -> None:
    response = client.post(PATH, headers={"X-Request-ID": request_id})
    assert response.headers["X-Request-ID"] == request_id


@pytest.mark.parametrize("request_id", ["", "~" * 129, "\xe9", "a\tb", "tlm_0123"])
def test_invalid_request_id_is_replaced(client: FlaskClient, request_id: str) -> None:
    responses = [
        client.post(PATH, headers={"X-Request-ID": request_id}),
        client.post(PATH, headers={"X-Request-ID": request_id}),
        client.get("/elsewhere"),
        client.get("/healthz"),
    ]
    made = {response.headers["X-Request-ID"] for response in responses}
    assert len(made) == 4
    for each in made:
        assert re.fullmatch("[0-9a-f]{32}", each)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(log: io.StringIO) -> Terminal:
    """A terminal that receives the access log instead of ``log``."""
    terminal = Terminal()
    access_log.set_up(terminal)
    return terminal


def post_without_database(config: Config, organization: Organization) -> TestResponse:
    """Send a request to a service whose database is down."""
    down = replace(config, database_url="postgresql://127.0.0.1:1/down")
    headers = {"x-api-key": organization.key}
    return create_app(down).test_client().post(PATH, headers=headers)


def test_terminal_log_is_text(
    terminal: Terminal,
    client: FlaskClient,
    config: Config,
    post: Post,
    acme: Organization,
) -> None:
    acme.insert("SN-1")
    post({"devices": {"SN-1": {}, "SN-2": {}}})
    post({"devices": {"SN-1": {}, "SN-2": {}}}, query="dryRun=true")
    post({"devices": {}})
    client.get("/%1b[2J")
    post_without_database(config, acme)
    seen = re.sub(r"\d\d:\d\d:\d\d |[\d.]+ ms", "-", terminal.getvalue())
    shown = seen.splitlines()
    assert shown[:6] == [
        f"-POST {PATH} 200 2 devices 1 updated -",
        f"-POST {PATH} 200 2 devices 1 would be updated -",
        f"-POST {PATH} 400 -",
        "-GET /\\x1b[2J 404 -",
        f"-POST {PATH} 500 - ",
        "Traceback (most recent call last):",
    ]
    assert "Connection refused" in shown[-1]


@pytest.mark.parametrize(
    ("path", "encoding", "reason"),
    [
        ("/dev/full", "utf-8", "No space left on device"),
        ("/dev/null", "ascii", "'ascii' codec can't encode character"),
    ],
)
def test_response_is_sent_if_log_cannot_be_written(
    path: str,
    encoding: str,
    reason: str,
    client: FlaskClient,
    log: io.StringIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open(path, "w", encoding=encoding) as stream, suppress(OSError):
        access_log.set_up(stream)
        response = client.get("/%C3%A9")
        access_log.set_up(None)
        stream.close()  # tries to write again
    assert (response.status_code, response.json) == (404, {"error": "Not Found"})
    assert "Cannot write the access log: " in caplog.text
    assert reason in caplog.text


def test_failure_is_reported_if_log_is_closed(
    config: Config,
    acme: Organization,
    log: io.StringIO,
    caplog: pytest.LogCaptureFixture,
) -> None:
    log.close()
    response = post_without_database(config, acme)
    assert response.json == {"error": "Internal server error"}
    assert "Cannot write the access log: I/O operation on closed file" in caplog.text
    assert "Connection refused" in caplog.text
