"""NDJSON: a line for each device, sent as it stands."""

import json

import pytest

from tests.support.reading import problems, read_all, texts


def line(identifier: str, metadata: str) -> str:
    return f'{{"identifier": {json.dumps(identifier)}, "metadata": {metadata}}}\n'


@pytest.mark.parametrize(
    "metadata",
    [
        '{"a": 1.0, "b": -0, "c": 1E2, "d": 12345678901234567890.5, "e": 1e-308}',
        '{"n": %s}' % ("7" * 5000),
        '{"n": 0.%s}' % ("7" * 5000),
        '{ "spaces" :\t[ ] }',
        '{"a": 1, "a": 2}',
        '{"s": "é😀 \\u00e9 \\"quoted\\" \\\\ \\/"}',
        "{}",
    ],
)
def test_metadata_stays_as_it_stands(metadata: str) -> None:
    assert texts(line("SN-1", metadata), "ndjson") == {"SN-1": metadata}


def test_members_may_come_in_any_order_and_lines_in_any_shape() -> None:
    content = (
        '\ufeff{"metadata":{"a":1},"identifier":" SN-1\\t"}\r\n'
        "\n"
        "   \r\n"
        ' { "identifier" : "007" , "metadata" : {} } \n'
        '{"identifier": "\\u0053N-\\u00e9", "metadata": {}}'
    )
    devices, wrong = read_all(content, "ndjson")
    assert wrong == []
    assert [(device.number, device.line, device.identifier) for device in devices] == [
        (1, 1, "SN-1"),
        (2, 4, "007"),
        (3, 5, "SN-é"),
    ]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("{", "Input data was truncated"),
        ('{"identifier": "SN-1"}', "Object missing required field `metadata`"),
        ('{"metadata": {}}', "Object missing required field `identifier`"),
        (
            '{"identifier": "SN-1", "metadata": {}, "more": 1}',
            "Object contains unknown field `more`",
        ),
        (line("SN-1", '{"a": NaN}'), "JSON is malformed: invalid character (byte 41)"),
        (line("SN-1", "[" * 100_000), "nested too deeply"),
        (b'{"identifier": "\xe9", "metadata": {}}', "not UTF-8"),
        (line("SN-1", "{} {}"), "JSON is malformed: expected ',' or '}' (byte 38)"),
    ],
)
def test_a_line_that_cannot_be_read(wrong: bytes | str, reason: str) -> None:
    data = wrong if isinstance(wrong, bytes) else wrong.rstrip("\n").encode()
    good = line("SN-2", "{}").encode()
    devices, found = read_all(good + data + b"\n" + good, "ndjson")
    assert found == [(2, "", reason)]
    assert [device.line for device in devices] == [1, 3]


def test_a_number_as_identifier_is_no_identifier() -> None:
    [(_, _, reason)] = problems('{"identifier": 7, "metadata": {}}', "ndjson")
    assert reason == "Expected `str`, got `int` - at `$.identifier`"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("null", "metadata must be a JSON object"),
        ("[]", "metadata must be a JSON object"),
        ('"{}"', "metadata must be a JSON object"),
        ('{"a": "\\u0000"}', "metadata: must not contain the NUL character"),
        ('{"a": 1e309}', "metadata: number out of range"),
        ('{"a": "x\\ud800"}', "Input data was truncated"),
    ],
)
def test_metadata_that_the_service_would_refuse(metadata: str, reason: str) -> None:
    [(number, _, found)] = problems(line("SN-1", metadata), "ndjson")
    assert (number, found) == (1, reason)


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        ("", "the identifier is empty"),
        (" \t\u3000", "the identifier is empty"),
        ("a\0b", "the identifier must not contain the NUL character"),
    ],
)
def test_identifiers_that_no_device_has(identifier: str, reason: str) -> None:
    [(_, _, found)] = problems(line(identifier, "{}"), "ndjson")
    assert found == reason


def test_a_device_that_no_call_can_hold() -> None:
    metadata = '{"a": "%s"}' % ("x" * 100)
    # {"devices":{"SN-1":...}}
    size = len('{"devices":{"SN-1":}}') + len(metadata)
    for limit, wrong in ((size, 0), (size - 1, 1)):
        _, found = read_all(line("SN-1", metadata), "ndjson", limit)
        assert len(found) == wrong
    assert found[0][2] == (
        f"{size} bytes in a call by itself, where {size - 1} are the limit"
    )


def test_a_line_may_not_have_any_length() -> None:
    content = line("SN-1", "{}") + line("SN-2", '{"a": "%s"}' % ("x" * 10_485_760))
    devices, found = read_all(content, "ndjson")
    assert len(devices) == 1
    assert found == [
        (2, "", "longer than 10485760 bytes; nothing can be read from here on")
    ]


def test_utf_16_is_named() -> None:
    [(number, _, reason)] = problems(line("SN-1", "{}").encode("utf-16"), "ndjson")
    assert (number, reason) == (
        1,
        "UTF-16, where UTF-8 is needed; nothing can be read from here on",
    )


def test_all_problems_are_found_in_the_order_of_the_file() -> None:
    lines = [line(f"SN-{number}", "{}") for number in range(3000)]
    lines[10] = "x\n"
    lines[1500] = line("", "{}")
    lines[1501] = "x\n"
    lines[1502] = line("SN", "1")
    devices, found = read_all("".join(lines), "ndjson")
    assert [number for number, _, _ in found] == [11, 1501, 1502, 1503]
    assert len(devices) == 2996
