"""A dry run: what asks for one, the plain call's answer, and nothing written."""

import io
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client import REGISTRY
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.api.request import is_dry_run
from bulk_metadata.core.errors import ApiError
from bulk_metadata.telemetry import access_log
from tests.api.test_validation import REFUSED as REFUSED_BODIES
from tests.conftest import Organization, Post
from tests.db.test_upgrade import ROWS, select
from tests.server.test_http import parsed
from tests.support.service import PATH, Service

DRY_RUN = "dryRun=true"
DEVICES = {"devices": {"SN-2": {"a": 1}, " SN-1\n": {}, "SN-3": {"b": 2}}}

BOOLEAN = "dryRun must be true or false, not "
ONCE = "dryRun must be given once"

REFUSED_QUERIES = {
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
REFUSED_QUERIES |= {
    "dry%20run=true": 'Unknown parameter "dry run": it is spelt dryRun',
    "dryRun%00=true": 'Unknown parameter "dryRun\0": it is spelt dryRun',
    "dryRun%FF=true": 'Unknown parameter "dryRun\ufffd": it is spelt dryRun',
    "dryRun%3Dtrue": 'Unknown parameter "dryRun=true": it is spelt dryRun',
    # Whatever it is set to, and whatever else there is.
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


@pytest.mark.parametrize("query", REFUSED_QUERIES, ids=lambda query: query[:30])
def test_unclear_dry_run_parameter_is_rejected(
    query: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    response = post(DEVICES, query=query)
    assert (response.status_code, response.json) == (
        400,
        {"error": REFUSED_QUERIES[query]},
    )
    assert acme.rows() == before


NO_URL = {
    b"dryRun=\xff": BOOLEAN + '"\ufffd"',
    b"dryRun=tr\xc3\xbce": BOOLEAN + '"trüe"',
    b"dryRun\xff=true": 'Unknown parameter "dryRun\ufffd": it is spelt dryRun',
}


@pytest.mark.parametrize("query", NO_URL, ids=repr)
def test_query_with_raw_bytes_is_rejected(
    query: bytes, service: Service, acme: Organization
) -> None:
    """By gunicorn; and if another server lets them through, by ourselves."""
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
    with pytest.raises(ApiError) as refusal:
        is_dry_run(query)
    assert (refusal.value.status, refusal.value.message) == (400, NO_URL[query])


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


def test_dry_run_of_impossible_identifiers(post: Post) -> None:
    response = post({"devices": {"": {}, "\0": {}}}, query=DRY_RUN)
    assert response.json is not None
    assert (response.json["dryRun"], response.json["notFound"]) == (True, 2)


def test_dry_run_writes_nothing(
    post: Post, acme: Organization, globex: Organization, cursor: Cursor
) -> None:
    """Not a byte of a row, of any table, and none is written anew."""
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers, metadata={"old": True})
    globex.insert(*identifiers)
    before = select(cursor, ROWS)
    sent = {"devices": {each: {"name": each} for each in identifiers}}
    response = post(sent, query=DRY_RUN)
    assert response.json is not None
    assert response.json["updated"] == 1000
    assert select(cursor, ROWS) == before
    # As it is, the plain call changes exactly Acme's devices.
    post(sent)
    assert len(set(before) - set(select(cursor, ROWS))) == 1000


@pytest.mark.parametrize("case", REFUSED_BODIES)
def test_dry_run_rejects_invalid_body(
    case: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    body, sentence = REFUSED_BODIES[case]
    response = post(body, query=DRY_RUN)
    assert (response.status_code, response.json) == (400, {"error": sentence})
    assert acme.rows() == before


def test_concurrent_dry_runs_and_requests_do_not_mix(
    service: Service, acme: Organization
) -> None:
    """Over the same devices, in opposite orders: what is stored comes from one call,
    whole, and every answer says which of the two it is."""
    identifiers = [f"SN-{number}" for number in range(100)]
    acme.insert(*identifiers)

    def call(number: int) -> tuple[bool, int, Any]:
        is_dry_run = number % 2 == 0
        order = identifiers[:: 1 if number % 4 < 2 else -1]
        metadata = {"number": number, "dryRun": is_dry_run}
        answer = service.request(
            json.dumps({"devices": dict.fromkeys(order, metadata)}),
            {"x-api-key": acme.key},
            path=f"{PATH}?{DRY_RUN}" if is_dry_run else PATH,
        )
        return is_dry_run, answer.status, answer.json

    with ThreadPoolExecutor(8) as executor:
        for is_dry_run, status, answer in executor.map(call, range(160)):
            assert (status, answer.get("dryRun", False)) == (200, is_dry_run)
            assert answer["updated"] == 100
    [stored] = {json.dumps(each) for each in acme.metadata().values()}
    assert json.loads(stored)["dryRun"] is False


def test_access_log_shows_dry_run(service: Service, acme: Organization) -> None:
    acme.insert("SN-1")
    headers = {"x-api-key": acme.key}
    for request_id, query, body in (
        ("dry run", "?dryRun=true", json.dumps(DEVICES)),
        ("refused dry run", "?dryRun=true", "{}"),
        ("plain call", "?dryRun=false", json.dumps(DEVICES)),
        ("neither", "?dryRun=maybe", json.dumps(DEVICES)),
    ):
        service.request(
            body, {**headers, "X-Request-ID": request_id}, path=PATH + query
        )
    lines = {line["requestId"]: line for line in service.requests}
    assert lines["dry run"]["dryRun"] is True
    assert (lines["dry run"]["updated"], lines["dry run"]["notFound"]) == (1, 2)
    assert lines["refused dry run"]["dryRun"] is True
    assert lines["plain call"]["updated"] == 1
    assert "dryRun" not in lines["plain call"]
    assert "dryRun" not in lines["neither"]


def test_terminal_log_shows_dry_run(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.setFormatter(access_log.TextFormatter())
    logger = logging.getLogger("bulk_metadata.telemetry.access_log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        post(DEVICES, query=DRY_RUN)
        post(DEVICES)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    dry, plain = shown.getvalue().splitlines()
    assert f" POST {PATH} 200 3 devices 1 would be updated " in dry
    assert f" POST {PATH} 200 3 devices 1 updated " in plain


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
    def more(call: Callable[[], object]) -> dict[str, float]:
        before = counted()
        call()
        return {name: value - before[name] for name, value in counted().items()}

    acme.insert("SN-1")
    request = dict.fromkeys(
        ["requests", "durations", "sizes", "times in PostgreSQL"], 1
    )
    assert more(lambda: post(DEVICES, query=DRY_RUN)) == request | {
        "updated": 0,
        "not found": 0,
    }
    assert more(lambda: post(DEVICES)) == request | {"updated": 1, "not found": 2}
