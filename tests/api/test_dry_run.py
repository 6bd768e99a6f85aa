"""Dry runs: the parameter, the response, the log and the metrics."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.api.request import is_dry_run
from bulk_metadata.core.errors import ApiError
from tests.conftest import Organization, Post
from tests.db.test_upgrade import ROWS, select
from tests.server.test_http import parsed
from tests.support.service import PATH, Service

DRY_RUN = "dryRun=true"
DEVICES = {"devices": {"SN-2": {"a": 1}, " SN-1\n": {}, "SN-3": {"b": 2}}}

BOOLEAN = "dryRun must be true or false, not "
ONCE = "dryRun must be given once"

UNCLEAR_QUERIES = {
    "dryRun": BOOLEAN + '""',
    "dryRun=": BOOLEAN + '""',
    "dryRun=yes": BOOLEAN + '"yes"',
    "dryRun=1": BOOLEAN + '"1"',
    "dryRun=0": BOOLEAN + '"0"',
    "dryRun=null": BOOLEAN + '"null"',
    "dryRun=TRUE": BOOLEAN + '"TRUE"',
    "dryRun=False": BOOLEAN + '"False"',
    "dryRun=+true": BOOLEAN + '" true"',
    "dryRun=true%0A": BOOLEAN + '"true\n"',
    "dryRun=true%00": BOOLEAN + '"true\0"',
    'dryRun="true"': BOOLEAN + '""true""',
    "dryRun==true": BOOLEAN + '"=true"',
    "dryRun=true;x": BOOLEAN + '"true;x"',
    "dryRun=true;dryRun=true": BOOLEAN + '"true;dryRun=true"',
    "dryRun=true?dryRun=true": BOOLEAN + '"true?dryRun=true"',
    "dryRun=true%26x": BOOLEAN + '"true&x"',
    "dryRun=tr%C3%BCe": BOOLEAN + '"trüe"',
    "dryRun=%F0%9F%9A%9A": BOOLEAN + '"🚚"',
    # Not UTF-8: a lone byte, and a surrogate.
    "dryRun=%FF": BOOLEAN + '"\ufffd"',
    "dryRun=%ED%A0%80": BOOLEAN + '"\ufffd\ufffd\ufffd"',
    "dryRun=%zz": BOOLEAN + '"%zz"',
    "dryRun=" + "x" * 8000: f'{BOOLEAN}"{"x" * 8000}"',
    "dryRun=true&dryRun=true": ONCE,
    "dryRun=false&dryRun=true": ONCE,
    "dryRun=true&x=1&dryRun": ONCE,
    "dryRun=true&%64ryRun=true": ONCE,
} | {
    f"{name}=true": f'Unknown parameter "{name}": it is spelt dryRun'
    for name in (
        "dryrun",
        "dry_run",
        "dry-run",
        "DRYRUN",
        "DRY_RUN",
        "DryRun",
        "dry_Run",
        "dryRun_",
        "--dry-run",
        "dry.run",
        "dryRun[]",
        "$dryRun",
        "?dryRun",
        "amp;dryRun",
        ";dryRun",
    )
}
UNCLEAR_QUERIES |= {
    "dry%20run=true": 'Unknown parameter "dry run": it is spelt dryRun',
    "dryRun%00=true": 'Unknown parameter "dryRun\0": it is spelt dryRun',
    "dryRun%FF=true": 'Unknown parameter "dryRun\ufffd": it is spelt dryRun',
    "dryRun%3Dtrue": 'Unknown parameter "dryRun=true": it is spelt dryRun',
    # With any value, and with another parameter.
    "dry_run=false": 'Unknown parameter "dry_run": it is spelt dryRun',
    "dry_run": 'Unknown parameter "dry_run": it is spelt dryRun',
    "dryRun=false&dry_run=true": 'Unknown parameter "dry_run": it is spelt dryRun',
}


@pytest.mark.parametrize(
    "query",
    [
        "dryRun=true",
        "%64ryRun=true",
        "dryRun=%74rue",
        "x=1&dryRun=true",
        "&&dryRun=true&",
        "dryRun=true&x=%FF&é",
    ],
)
def test_dry_run_parameter_is_recognized(query: str) -> None:
    assert is_dry_run(query.encode())


@pytest.mark.parametrize(
    "query",
    ["", "dryRun=false", "%64ryRun=f%61lse", "x=dryRun", "dry=true", "&=&", "é"],
)
def test_other_queries_request_no_dry_run(
    query: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    response = post(DEVICES, query=query)
    assert response.status_code == 200
    assert response.data.startswith(b'{"success":true,"updated":1,"notFound":2,')
    assert acme.updated() == {"SN-1"}


@pytest.mark.parametrize("query", UNCLEAR_QUERIES, ids=lambda query: query[:30])
def test_unclear_dry_run_parameter_is_rejected(
    query: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    response = post(DEVICES, query=query)
    assert (response.status_code, response.json) == (
        400,
        {"error": UNCLEAR_QUERIES[query]},
    )
    assert acme.rows() == before


INVALID_BYTES = {
    b"dryRun=\xff": BOOLEAN + '"\ufffd"',
    b"dryRun=tr\xc3\xbce": BOOLEAN + '"trüe"',
    b"dryRun\xff=true": 'Unknown parameter "dryRun\ufffd": it is spelt dryRun',
}


@pytest.mark.parametrize("query", INVALID_BYTES, ids=repr)
def test_query_with_raw_bytes_is_rejected(
    query: bytes, service: Service, acme: Organization
) -> None:
    """gunicorn rejects them, and the application does if another server does not."""
    acme.insert("SN-1")
    before = acme.rows()
    body = b'{"devices": {"SN-1": {"a": 1}}}'
    raw = service.send(
        b"POST %s?%s HTTP/1.1\r\nHost: service\r\n" % (PATH.encode(), query),
        b"Connection: close\r\nx-api-key: %s\r\n" % acme.key.encode(),
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
    )
    assert parsed(raw) == (400, {"error": "Invalid HTTP request"})
    assert acme.rows() == before
    with pytest.raises(ApiError) as error:
        is_dry_run(query)
    assert (error.value.status, error.value.message) == (400, INVALID_BYTES[query])


def test_authentication_precedes_dry_run_parameter(client: FlaskClient) -> None:
    response = client.post(PATH, query_string="dry_run=true")
    assert response.status_code == 401
    assert response.json == {"error": "Invalid or missing API key"}


def test_dry_run_parameter_precedes_body_validation(post: Post) -> None:
    for body in ("{", " " * 10_485_761):
        response = post(body, query="dryRun=yes")
        assert response.json == {"error": 'dryRun must be true or false, not "yes"'}
    response = post(" " * 10_485_761, query=DRY_RUN)
    assert response.status_code == 413


def test_dry_run_response_matches_real_request(
    post: Post, acme: Organization, globex: Organization
) -> None:
    acme.insert("SN-1", "SN-2")
    globex.insert("SN-3")
    dry, plain = post(DEVICES, query=DRY_RUN), post(DEVICES)
    assert dry.status_code == plain.status_code == 200
    assert dry.data == plain.data.replace(
        b'{"success":true,', b'{"success":true,"dryRun":true,'
    )
    ids = acme.ids()
    assert dry.json == {
        "success": True,
        "dryRun": True,
        "updated": 2,
        "notFound": 1,
        "results": [
            {"identifier": "SN-2", "deviceId": ids["SN-2"], "status": "updated"},
            {"identifier": "SN-1", "deviceId": ids["SN-1"], "status": "updated"},
            {"identifier": "SN-3", "deviceId": "", "status": "not_found"},
        ],
    }


@pytest.mark.parametrize("query", ["", DRY_RUN])
def test_impossible_identifiers_are_not_found(query: str, post: Post) -> None:
    response = post({"devices": {"": {}, "\0": {}}}, query=query)
    assert response.json is not None
    assert (response.json["updated"], response.json["notFound"]) == (0, 2)


def test_dry_run_writes_nothing(
    post: Post, acme: Organization, globex: Organization, cursor: Cursor
) -> None:
    """No row of any table changes, and no row has a new version."""
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers, metadata={"old": True})
    globex.insert(*identifiers)
    before = select(cursor, ROWS)
    sent = {"devices": {each: {"name": each} for each in identifiers}}
    response = post(sent, query=DRY_RUN)
    assert response.json is not None
    assert response.json["updated"] == 1000
    assert select(cursor, ROWS) == before
    # The real request changes only the devices of Acme.
    post(sent)
    assert len(set(before) - set(select(cursor, ROWS))) == 1000


def test_concurrent_dry_runs_and_requests_do_not_mix(
    service: Service, acme: Organization
) -> None:
    """All update the same devices, in opposite orders. One real request wins."""
    identifiers = [f"SN-{number}" for number in range(100)]
    acme.insert(*identifiers)

    def send(number: int) -> tuple[bool, int, Any]:
        is_dry_run = number % 2 == 0
        order = identifiers[:: 1 if number % 4 < 2 else -1]
        metadata = {"number": number, "dryRun": is_dry_run}
        response = service.request(
            json.dumps({"devices": dict.fromkeys(order, metadata)}),
            {"x-api-key": acme.key},
            path=f"{PATH}?{DRY_RUN}" if is_dry_run else PATH,
        )
        return is_dry_run, response.status, response.json

    with ThreadPoolExecutor(8) as executor:
        for is_dry_run, status, result in executor.map(send, range(160)):
            assert (status, result.get("dryRun", False)) == (200, is_dry_run)
            assert result["updated"] == 100
    [stored] = {json.dumps(each) for each in acme.metadata().values()}
    assert json.loads(stored)["dryRun"] is False


def test_access_log_shows_dry_run(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    headers = {"x-api-key": acme.key}
    for request_id, query, body in (
        ("dry run", "?dryRun=true", json.dumps(DEVICES)),
        ("invalid dry run", "?dryRun=true", "{}"),
        ("real request", "?dryRun=false", json.dumps(DEVICES)),
        ("unclear", "?dryRun=maybe", json.dumps(DEVICES)),
    ):
        service.request(
            body, {**headers, "X-Request-ID": request_id}, path=PATH + query
        )
    lines = {line["requestId"]: line for line in service.requests}
    assert lines["dry run"]["dryRun"] is True
    assert (lines["dry run"]["updated"], lines["dry run"]["notFound"]) == (1, 2)
    assert lines["invalid dry run"]["dryRun"] is True
    assert lines["real request"]["updated"] == 1
    assert "dryRun" not in lines["real request"]
    assert "dryRun" not in lines["unclear"]


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"bulk_metadata_{name}", labels) or 0


def counted() -> dict[str, float]:
    return {
        "requests": sample("requests_total", status="200"),
        "durations": sample("request_duration_seconds_count"),
        "sizes": sample("request_devices_count"),
        "times in PostgreSQL": sample("database_duration_seconds_count"),
        "updated": sample("devices_total", result="updated"),
        "not found": sample("devices_total", result="not_found"),
    }


def test_metrics_count_dry_run_without_devices(post: Post, acme: Organization) -> None:
    def increase(send: Callable[[], object]) -> dict[str, float]:
        before = counted()
        send()
        return {name: value - before[name] for name, value in counted().items()}

    acme.insert("SN-1")
    request = dict.fromkeys(
        ["requests", "durations", "sizes", "times in PostgreSQL"], 1
    )
    assert increase(lambda: post(DEVICES, query=DRY_RUN)) == request | {
        "updated": 0,
        "not found": 0,
    }
    assert increase(lambda: post(DEVICES)) == request | {"updated": 1, "not found": 2}
