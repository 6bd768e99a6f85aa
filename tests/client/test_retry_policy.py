"""The retry policy: the meaning of each response, and the delays between attempts."""

import email.utils
import io
import time
from http import HTTPStatus

import pytest
from tenacity import RetryCallState
from urllib3 import HTTPResponse

from bulk_metadata.client.retry import (
    BACKOFF,
    OTHER_STATUS,
    RULES,
    Action,
    Failure,
    RequestError,
    Rule,
    parse_response,
)
from tests.support.service import ROOT

TRUNCATED = "200, but the response is truncated or invalid JSON: "
UUID = "d1a2b3c4-0000-0000-0000-000000000000"
FOUND = '{"identifier": "SN-1", "deviceId": "%s", "status": "updated"}'


def test_documented_retry_policy_is_implemented() -> None:
    text = (ROOT / "docs" / "fleet.md").read_text()
    _, _, table = text.partition("| response or failure | action | exit code")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.split("\n\n")[0].splitlines()[2:]
    ]
    *documented, other = [
        Rule(
            tuple(
                int(kind) if kind.isdecimal() else Failure(kind)
                for kind in kinds.split(", ")
                if kind != "any other status"
            ),
            Action(action),
            int(exit_code),
        )
        for kinds, action, exit_code in rows
    ]
    assert {kind for rule in documented for kind in rule.kinds} >= set(Failure)
    assert (tuple(documented), other) == (RULES, OTHER_STATUS)


def failure(status: int, body: bytes, **headers: str) -> RequestError:
    """Return the failure of a request with this response."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(RequestError) as error:
        parse_response(HTTPResponse(io.BytesIO(body), named, status))
    return error.value


@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (500, b'{"error": "Internal"}', 500, "500: Internal"),
        (400, b'{"error": "invalid"}', Failure.REJECTED, "400: invalid"),
        (404, b'{"error": "Not Found"}', 404, "404: Not Found. Check --url"),
        (413, b'{"error": "too large"}', 413, "413: too large"),
        (
            413,
            b"<html>",
            413,
            f"413 {HTTPStatus(413).phrase}. A proxy in front of the service limits the "
            "size of a request, for example with client_max_body_size in nginx",
        ),
        (503, b"[" * 100_000, 503, "503 Service Unavailable"),
        (403, b'{"error": "gesch\xfctzt"}', 403, "403 Forbidden"),
        (522, b"", 522, "522"),
        (204, b"", 204, "204 No Content"),
        (502, b"<html>", 502, "502 Bad Gateway"),
        (502, b"<TITLE>502 Bad Gateway</title>", 502, "502 Bad Gateway"),
        (502, b"<title>" * 100_000, 502, "502 Bad Gateway"),
        (
            400,
            b'<html><Title class="">\n No\nHTTPS &amp; \xff\n</title>',
            400,
            '400 Bad Request, page title "No HTTPS & \ufffd"',
        ),
        (
            200,
            b"<title>Sign in</title>",
            Failure.OTHER_SERVER,
            '200 OK, page title "Sign in": the response is a web page. Check --url, ',
        ),
        (200, b'\n{"results": [{"ident', Failure.UNREADABLE, TRUNCATED),
        (200, b'{"x":' + b"[" * 100_000, Failure.UNREADABLE, TRUNCATED),
        (200, b'{"results": [{"identifier": "\xfc"}]}', Failure.UNREADABLE, TRUNCATED),
    ],
    ids=lambda value: str(value)[:20],
)
def test_failed_response_is_diagnosed(
    status: int, body: bytes, kind: int | Failure, reason: str
) -> None:
    error = failure(status, body)
    assert error.kind == kind
    assert str(error).startswith(reason)
    assert status == 200 or str(error) == reason


@pytest.mark.parametrize(
    "body",
    [
        "ok",
        "[" * 100_000,
        '{"error": "x"}',
        '{"results": [{"deviceId": ""}]}',
        *(f'{{"results": [{FOUND % other}]}}' for other in ("1", UUID[1:], UUID + "0")),
    ],
    ids=len,
)
def test_200_from_another_server_is_detected(body: str) -> None:
    error = failure(200, body.encode())
    assert error.kind == Failure.OTHER_SERVER
    assert str(error) == (
        "200 OK: the response is not a response of this API. Check --url, and whether "
        "a login page, a proxy or another service responds at this address"
    )


def test_text_and_redirect_are_quoted() -> None:
    text = failure(504, b"\nno\nbackend", Content_Type="text/plain; charset=utf-8")
    assert str(text) == '504 Gateway Timeout, "no"'
    assert str(failure(504, b"no", Content_Type="text/css")) == "504 Gateway Timeout"
    assert str(failure(301, b"<title>Moved</title>", Location="https://host/")) == (
        "301 Moved Permanently: redirect to https://host/. "
        "Set --url to the final address"
    )


@pytest.mark.parametrize("ids", [[], [UUID], [UUID, ""]], ids=len)
def test_response_with_device_ids_is_accepted(ids: list[str]) -> None:
    body = b'{"results": [%s]}' % ", ".join(FOUND % each for each in ids).encode()
    response = parse_response(HTTPResponse(io.BytesIO(body), status=200))
    assert [result.device_id for result in response.results] == ids
    assert response.dry_run is False


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2),
        (" 1 ", 1),
        ("3601", 3600),
        ("0", 0),
        ("-5", 0),
        ("nonsense", 0),
        ("9" * 5000, 0),
        ("Thu, 26 Nov 2026 12:00:03 GMT", 3),
        ("Thu, 26 Nov 2026 13:00:01 +0100", 1),
        ("Thu, 26 Nov 2026 14:00:00 GMT", 3600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
    ],
)
def test_retry_after_is_limited(value: str, seconds: float) -> None:
    date = "Thu, 26 Nov 2026 12:00:00 GMT"
    assert failure(503, b"", Retry_After=value, Date=date).retry_after == seconds


def test_retry_after_needs_no_date() -> None:
    assert failure(503, b"").retry_after == 0
    assert RequestError(503, "").retry_after == 0
    date = email.utils.formatdate(time.time() + 1000, usegmt=True)
    assert 900 < failure(503, b"", Retry_After=date).retry_after <= 1000


def test_backoff_grows_to_30_seconds() -> None:
    state = RetryCallState(None, None, (), {})  # type: ignore[arg-type]  # not used
    for attempt, limit in enumerate((0.5, 1, 2, 4, 8, 16, 30, 30), 1):
        state.attempt_number = attempt
        delays = [BACKOFF(state) for _ in range(1000)]
        assert 0 <= min(delays) < 0.05 * limit
        assert 0.98 * limit < max(delays) <= limit
