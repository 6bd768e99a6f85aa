"""NDJSON: one device per line, with verbatim metadata."""

import json

import pytest

from tests.files.reading import problems, read_all, texts


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
        '{"s": "é😀 \\u00e9 \\"quoted\\" \\\\ \\/", "t": "#N/A \u200b"}',
        "{}",
    ],
)
def test_metadata_is_verbatim(metadata: str) -> None:
    assert texts(line("SN-1", metadata), "ndjson") == {"SN-1": metadata}


def test_members_can_have_any_order() -> None:
    content = (
        '\ufeff\n{"metadata":{"a":1},"identifier":" SN-1\\t"}\r\n'
        "\n"
        "   \r\n"
        '\ufeff { "identifier" : "007" , "metadata" : {} } \n'
        '{"identifier": "\\u0053N-\\u00e9", "metadata": {}}'
    )
    devices, found = read_all(content, "ndjson")
    assert found == []
    assert [(device.number, device.line, device.identifier) for device in devices] == [
        (1, 2, "SN-1"),
        (2, 5, "007"),
        (3, 6, "SN-é"),
    ]


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("{", '"{" is not valid JSON'),
        ("x", '"x" is not valid JSON'),
        ("[1]", 'expected a JSON object, got "[1]"'),
        ('{"metadata": {}}', 'the member "identifier" is missing'),
        (
            '{"identifier": 7, "metadata": {}}',
            'the identifier must be a string, got "7"',
        ),
        (
            '{"identifier": "SN-1", "metadata": {}, "more": 1}',
            'the member "more" is unknown',
        ),
        (
            '{"identifier": "SN-1", "metadata": {"a": NaN}}',
            '"{"identifier": "SN-1", "metadata": {"a": NaN}}" is not valid JSON',
        ),
        (
            '{"identifier": "SN-1", "metadata": %s' % ("[" * 100_000),
            "the metadata has too many levels of nesting",
        ),
        (
            b'{"identifier": "SN-1\xe9", "metadata": {}}',
            '"{"identifier": "SN-1?", "metadata": {}}" is not UTF-8 (or the encoding '
            "set with --encoding): byte 0xE9",
        ),
        (
            '{"identifier": "a\\ud800", "metadata": {}}',
            '"{"identifier": "a\\ud800", "metadata": {}}" is not valid JSON',
        ),
    ],
)
def test_invalid_line_is_rejected(wrong: bytes | str, reason: str) -> None:
    data = wrong if isinstance(wrong, bytes) else wrong.encode()
    valid = line("SN-2", "{}").encode()
    devices, found = read_all(valid + data + b"\n" + valid, "ndjson")
    assert found == [(2, "", reason)]
    assert [device.line for device in devices] == [1, 3]


@pytest.mark.parametrize(
    ("identifier", "metadata", "reason"),
    [
        ("SN-1", "null", "metadata must be a JSON object"),
        ("SN-1", "[]", "metadata must be a JSON object"),
        ("SN-1", '"{}"', "metadata must be a JSON object"),
        ("SN-1", '{"a": "\\u0000"}', "metadata: must not contain the NUL character"),
        ("SN-1", '{"a": 1e309}', "metadata: number out of range"),
        ("", "{}", "the identifier is empty"),
        (" \t\u3000", "{}", "the identifier is empty"),
        ("a\0b", "{}", "the identifier must not contain the NUL character"),
        ("é" * 513, "{}", "the identifier has more than 1,024 bytes"),
        ("😀" * 257, "{}", "the identifier has more than 1,024 bytes"),
    ],
)
def test_device_is_rejected_as_by_service(
    identifier: str, metadata: str, reason: str
) -> None:
    found = problems(line(identifier, metadata), "ndjson")
    assert found == [(1, identifier.strip(), reason)]


def test_missing_metadata_needs_confirmation() -> None:
    content = '{"identifier": "SN-1"}\n' + line("SN-2", "{}")
    devices, found = read_all(content, "ndjson")
    assert found == [(1, "SN-1", "the device has no metadata")]
    assert [device.identifier for device in devices] == ["SN-2"]
    assert texts(content, "ndjson", allow_empty=True) == {"SN-1": "{}", "SN-2": "{}"}


@pytest.mark.parametrize("identifier", ["SN-1", "é" * 512, "a" + "\1" * 255])
def test_device_larger_than_request_is_rejected(identifier: str) -> None:
    metadata = '{"a": "%s"}' % ("x" * 3000)
    body = f'{{"devices":{{{json.dumps(identifier, ensure_ascii=False)}:{metadata}}}}}'
    size = len(body.encode())
    assert problems(line(identifier, metadata), "ndjson", max_bytes=size) == []
    reason = f"the device needs a request of {size:,} bytes (limit: {size - 1:,})"
    assert problems(line(identifier, metadata), "ndjson", max_bytes=size - 1) == [
        (1, identifier, reason)
    ]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("surplus", [0, 1])
def test_line_length_is_limited(first: int, surplus: int) -> None:
    rest = line("SN-2", '{"a": ""}')
    length = 10_485_760 + surplus - len(rest)
    content = line("SN-1", "{}") * first + rest.replace('""', f'"{"x" * length}"')
    devices, found = read_all(content, "ndjson", max_bytes=20_000_000)
    assert len(devices) == first + 1 - surplus
    reason = "the line has more than 10,485,760 characters"
    assert [text.split(";")[0] for _, _, text in found] == [reason] * surplus


def test_long_line_is_read() -> None:
    metadata = '{"a": "%s"}' % ("x" * 100_000)
    content = line("SN-1", metadata) + line("SN-2", "{}")
    assert texts(content, "ndjson") == {"SN-1": metadata, "SN-2": "{}"}


def test_errors_are_in_order_of_file() -> None:
    lines = [line(f"SN-{number}", "{}") for number in range(3000)]
    lines[10] = "x\n"
    lines[1500] = line("", "{}")
    lines[1501] = "x\n"
    lines[1502] = line("SN", "1")
    devices, found = read_all("".join(lines), "ndjson")
    assert [number for number, _, _ in found] == [11, 1501, 1502, 1503]
    assert len(devices) == 2996
