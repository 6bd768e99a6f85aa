"""Random requests of two organizations, compared with a model of dictionaries."""

import json
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import cursor as Cursor

from tests.conftest import Organization
from tests.support.service import PATH

# Identifiers, including some that differ in case, trimming or normalization.
EXISTING = ["SN-1", "SN-2", "sn-1", "é", "e\u0301", "10", "9", "%s", "\\", "🚚"]
PADDING = st.text(" \t\n\u00a0\u3000", max_size=2)
IDENTIFIERS = st.one_of(
    st.builds("{}{}{}".format, PADDING, st.sampled_from(EXISTING), PADDING),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)

NUMBERS = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=20).map("{:f}".format),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.builds("{}e{}".format, st.integers(-99, 99), st.integers(-320, 320)),
)
STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(
    lambda text: json.dumps(text, ensure_ascii=len(text) % 2 == 0)
)
VALUES = st.recursive(
    st.one_of(st.sampled_from(["null", "true", "false", "{}", "[]"]), NUMBERS, STRINGS),
    lambda values: st.one_of(
        st.lists(values, max_size=3).map(lambda items: "[" + ",".join(items) + "]"),
        st.lists(st.tuples(STRINGS, values), max_size=3).map(
            lambda items: "{" + ", ".join(f"{k}: {v}" for k, v in items) + "}"
        ),
    ),
    max_leaves=8,
)
DOCUMENTS = st.lists(st.tuples(STRINGS, VALUES), max_size=3).map(
    lambda items: "{" + ",".join(f"{name}:{value}" for name, value in items) + "}"
)
# Mostly objects, sometimes another value.
METADATA = st.one_of(DOCUMENTS, DOCUMENTS, DOCUMENTS, VALUES)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["Acme", "Globex"]),
        st.lists(st.tuples(IDENTIFIERS, METADATA), max_size=6),
    ),
    min_size=1,
    max_size=5,
)


class OutOfRangeError(Exception):
    """A number that the contract rejects."""


def number(text: str) -> Decimal:
    _, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > 308:
        raise OutOfRangeError
    return Decimal(text)


def parse(text: str) -> Any:
    return json.loads(text, parse_int=number, parse_float=number)


def has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case list() | tuple():
            return any(map(has_nul, value))
        case _:
            return False


def reason_against(text: str) -> str | None:
    # Members that a later one replaces are checked, too.
    if has_nul(json.loads(text, object_pairs_hook=lambda pairs: [list(pairs)])):
        return "must not contain the NUL character"
    try:
        parse(text)
    except OutOfRangeError:
        return "number out of range"
    return None


Model = dict[str, dict[str, Any]]


def expected(devices: Model, ids: dict[str, str], entries: Any) -> tuple[int, Any]:
    """Return the response to a request, and apply the request to the model."""
    sent: dict[str, str] = {}
    for key, text in dict(entries).items():
        sent[key.strip()] = text
    if not sent:
        return 400, {"error": "devices must contain at least one entry"}
    for identifier, text in sent.items():
        if not text.startswith("{"):
            return 400, {
                "error": f'Invalid metadata for device "{identifier}": '
                "must be a JSON object"
            }
    for identifier, text in sent.items():
        if reason := reason_against(text):
            return 400, {
                "error": f'Invalid metadata for device "{identifier}": {reason}'
            }
    found = [identifier for identifier in sent if identifier in devices]
    devices.update({identifier: parse(sent[identifier]) for identifier in found})
    return 200, {
        "success": True,
        "updated": len(found),
        "notFound": len(sent) - len(found),
        "results": [
            {
                "identifier": identifier,
                "deviceId": ids.get(identifier, ""),
                "status": "updated" if identifier in ids else "not_found",
            }
            for identifier in sent
        ],
    }


@pytest.mark.slow(reason="sends hundreds of generated requests")
@given(requests=REQUESTS)
def test_requests_match_dictionary_model(
    requests: list[Any], client: FlaskClient, cursor: Cursor
) -> None:
    organizations = {
        name: Organization(cursor, f"{name} {uuid4()}") for name in ("Acme", "Globex")
    }
    organizations["Acme"].insert(*EXISTING)
    organizations["Globex"].insert(*EXISTING[:5])
    models: dict[str, Model] = {
        name: organization.metadata() for name, organization in organizations.items()
    }
    for name, entries in requests:
        organization = organizations[name]
        body = ",".join(f"{json.dumps(key)}: {text}" for key, text in entries)
        response = client.post(
            PATH,
            data='{"devices": {' + body + "}}",
            headers={"x-api-key": organization.key},
        )
        assert (response.status_code, response.json) == expected(
            models[name], organization.ids(), entries
        )
        for other, model in models.items():
            texts = organizations[other].texts()
            assert {key: parse(text) for key, text in texts.items()} == model


@pytest.mark.parametrize("text", ['{"a": 1e309}', '{"a": {"\\u0000": 1}}'])
def test_model_detects_violations(text: str) -> None:
    assert reason_against(text)
