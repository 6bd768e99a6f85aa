"""Validation: the error message of each invalid body, and bodies that are valid."""

import json
from typing import Any

import pytest

from tests.conftest import Organization, Post

REQUIRED = "devices is required and must be an object mapping identifiers to metadata"
EMPTY = "devices must contain at least one entry"
TOO_MANY = "Too many devices. Maximum 1000 per request"


def invalid(identifier: str, reason: str = "must be a JSON object") -> str:
    return f'Invalid metadata for device "{identifier}": {reason}'


NUL = "must not contain the NUL character"
RANGE = "number out of range"

ONE_TOO_MANY: dict[str, Any] = {f"SN-{number}": {} for number in range(1001)}

INVALID_BODIES: dict[str, tuple[Any, str]] = {
    # not an object, or devices missing or of another type
    "an array": ([], REQUIRED),
    "an array of a valid body": ([{"devices": {"SN-1": {}}}], REQUIRED),
    "null": ("null", REQUIRED),
    "true": ("true", REQUIRED),
    "a number": ("1", REQUIRED),
    "a string": ('"devices"', REQUIRED),
    "an empty object": ({}, REQUIRED),
    "another member": ({"device": {"SN-1": {}}}, REQUIRED),
    "another case": ({"Devices": {"SN-1": {}}}, REQUIRED),
    "devices null": ({"devices": None}, REQUIRED),
    "devices false": ({"devices": False}, REQUIRED),
    "devices a number": ({"devices": 1}, REQUIRED),
    "devices a string": ({"devices": "SN-1"}, REQUIRED),
    "devices an array": ({"devices": [{"SN-1": {}}]}, REQUIRED),
    "devices an empty array": ({"devices": []}, REQUIRED),
    "devices, then devices null": (
        '{"devices": {"SN-1": {}}, "devices": null}',
        REQUIRED,
    ),
    # {}
    "no entry": ({"devices": {}}, EMPTY),
    "devices, then devices empty": ('{"devices": {"SN-1": {}}, "devices": {}}', EMPTY),
    # more than 1,000 entries
    "1,001 entries": ({"devices": ONE_TOO_MANY}, TOO_MANY),
    "1,001 entries, one invalid": ({"devices": {**ONE_TOO_MANY, "SN-0": 1}}, TOO_MANY),
    "1,001 keys that are equal after trimming": (
        {"devices": {" " * spaces + "SN-1": {} for spaces in range(1001)}},
        TOO_MANY,
    ),
    # a value that is not an object
    "metadata null": ({"devices": {"SN-1": None}}, invalid("SN-1")),
    "metadata true": ({"devices": {"SN-1": True}}, invalid("SN-1")),
    "metadata a number": ({"devices": {"SN-1": 1}}, invalid("SN-1")),
    "metadata a string": ({"devices": {"SN-1": "{}"}}, invalid("SN-1")),
    "metadata an array": ({"devices": {"SN-1": [{}]}}, invalid("SN-1")),
    "the first invalid value in body order": (
        {"devices": {"SN-3": {}, "SN-2": 1, "SN-1": None}},
        invalid("SN-2"),
    ),
    "a trimmed identifier": ({"devices": {"\t SN-1\u00a0": 1}}, invalid("SN-1")),
    "an empty identifier": ({"devices": {" ": 1}}, invalid("")),
    "a quote in the identifier": ({"devices": {'S"N': 1}}, invalid('S"N')),
    "braces in the identifier": ({"devices": {"{0}{x}%s": 1}}, invalid("{0}{x}%s")),
    "an emoji in the identifier": ({"devices": {"🚚": 1}}, invalid("🚚")),
    "an invalid value for an unknown device": (
        {"devices": {"SN-UNKNOWN": 1}},
        invalid("SN-UNKNOWN"),
    ),
    "an invalid value, replaced by a valid one, before another": (
        '{"devices": {"SN-1": 1, "SN-2": 2, "SN-1": {}}}',
        invalid("SN-2"),
    ),
    "a valid value, replaced by an invalid one": (
        '{"devices": {"SN-1": {}, " SN-1": 1}}',
        invalid("SN-1"),
    ),
    # an object that PostgreSQL cannot store
    "NUL in a string": ({"devices": {"SN-1": {"a": "x\0"}}}, invalid("SN-1", NUL)),
    "NUL in a member name": ({"devices": {"SN-1": {"\0": 1}}}, invalid("SN-1", NUL)),
    "nested NUL": ({"devices": {"SN-1": {"a": [{"b": "\0"}]}}}, invalid("SN-1", NUL)),
    "NUL after a backslash": (
        r'{"devices": {"SN-1": {"a": "\\\u0000"}}}',
        invalid("SN-1", NUL),
    ),
    "NUL in the second of three": (
        {"devices": {"SN-3": {}, "SN-2": {"a": "\0"}, "SN-1": {"a": "\0"}}},
        invalid("SN-2", NUL),
    ),
    "a value of another type before NUL": (
        {"devices": {"SN-1": {"a": "\0"}, "SN-2": 1}},
        invalid("SN-2"),
    ),
}


@pytest.mark.parametrize("query", ["", "dryRun=true"])
@pytest.mark.parametrize("case", INVALID_BODIES)
def test_invalid_body_is_rejected(
    case: str, query: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1", "SN-2", "SN-3")
    before = acme.rows()
    body, message = INVALID_BODIES[case]
    response = post(body, query=query)
    assert (response.status_code, response.json) == (400, {"error": message})
    assert acme.rows() == before


@pytest.mark.parametrize(
    "number",
    [
        "1e309",
        "1E309",
        "1e+309",
        "1e-309",
        "-1e309",
        "-1.5E-309",
        "0e309",
        "0.0e-309",
        "1e131071",
        "1e-16383",
        "1e999999999999999999999",
        "1e-999999999999999999999",
        "1e" + "9" * 5000,
        "1e000000000309",
        "1" * 131_073,
        "0." + "1" * 16_384,
        "1" * 131_000 + "e100",
        "0." + "1" * 16_300 + "e-99",
    ],
    ids=lambda number: number[:12] + f"({len(number)})",
)
def test_number_out_of_range_is_rejected(
    number: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1", "SN-2")
    before = acme.rows()
    for metadata in (f'{{"a": {number}}}', f'{{"a": [1, {{"b":[{number}]}}]}}'):
        response = post(f'{{"devices": {{"SN-2": {{}}, "SN-1": {metadata}}}}}')
        assert response.status_code == 400
        assert response.json == {"error": invalid("SN-1", RANGE)}
    assert acme.rows() == before


@pytest.mark.parametrize("delimiter", [",", "]", "}", " ", "\t", "\n", "\r"])
@pytest.mark.parametrize("number", ["1e400", "-1E+400", "1.5e-00400"])
def test_number_is_checked_before_any_delimiter(
    number: str, delimiter: str, post: Post, acme: Organization
) -> None:
    ends = {",": ', "b": 1}', "]": "]}", "}": "}"}
    start = "[" if delimiter == "]" else ""
    metadata = f'{{"a": {start}{number}' + ends.get(delimiter, delimiter + "}")
    response = post(f'{{"devices": {{"SN-1": {metadata}}}}}')
    assert response.status_code == 400
    assert response.json == {"error": invalid("SN-1", RANGE)}


@pytest.mark.parametrize("position", [0, 49, 50, 51, 500, 998])
def test_first_invalid_device_is_named(
    position: int, post: Post, acme: Organization
) -> None:
    documents = ['{"a": "1e234-5e678"}'] * 1000
    documents[position] = '{"a": 1e309}'
    documents[position + 1] = '{"a": "\\u0000"}'
    devices = ",".join(f'"SN-{n}": {text}' for n, text in enumerate(documents))
    response = post(f'{{"devices": {{{devices}}}}}')
    assert response.status_code == 400
    assert response.json == {"error": invalid(f"SN-{position}", RANGE)}


@pytest.mark.parametrize(
    "number",
    [
        "1e308",
        "1E+308",
        "1e-308",
        "1e0000000000308",
        "1e-" + "0" * 5000,
        "12345678901234567890123456789012345678901234567890",
        "0.123456789012345678901234567890",
        "-0.0000000000000000000000000000000000000000000000001",
        "1.10",
        "9" * 5000,
        "1" * 131_072,
        "0." + "1" * 16_383,
        "1" * 130_764 + "e308",
        "0." + "1" * 16_075 + "e-308",
        "1" * 131_073 + "e-1",
    ],
    ids=lambda number: number[:12] + f"({len(number)})",
)
def test_number_in_range_is_stored_exactly(
    number: str, post: Post, acme: Organization
) -> None:
    acme.insert("SN-1")
    response = post(f'{{"devices": {{"SN-1": {{"a": {number}}}}}}}')
    assert response.status_code == 200
    acme.cursor.execute(
        "SELECT device_metadata->>'a' = (%s::numeric)::text FROM devices", (number,)
    )
    assert acme.cursor.fetchall() == [(True,)]


# Strings that resemble NUL or a number out of range.
HARMLESS = [
    r'{"a": "\\u0000"}',
    r'{"a": "\\\\u0000 \\"}',
    r'{"a": "u0000", "b": "\u0001"}',
    '{"a": "1e999"}',
    '{"a": ",1e999,", "1e999": "[1e999]"}',
    r'{"a": "\",1e999", "b": "\\", "c": "1e-999"}',
    '{"a": "3e1234e5678e9", "sha256": "0e999999"}',
    '{"a": 123, "b": "0' + "0" * 20_000 + '"}',
]


@pytest.mark.parametrize("text", HARMLESS, ids=lambda text: text[:30])
def test_harmless_text_is_stored(text: str, post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    assert post(f'{{"devices": {{"SN-1": {text}}}}}').status_code == 200
    assert acme.metadata() == {"SN-1": json.loads(text)}


def test_other_members_of_body_are_ignored(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    body = {"dryRun": 1, "devices": {"SN-1": {"a": 1}}, "x": [{"devices": None}]}
    assert post(body).status_code == 200
    assert acme.metadata() == {"SN-1": {"a": 1}}
