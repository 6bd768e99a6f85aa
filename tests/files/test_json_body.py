"""JSON of any length and structure, read in chunks."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulk_metadata.files import json_body, json_stream
from tests.files.reading import problems, read_all, texts

BODY = """\ufeff{
  "comment": {"devices": [1, 2.50, "}"], "x": null},
  "devices": {
    " SN-1 ": {"a": 1.0, "s": "é😀 \\u00e9 \\" {", "n": [1E2, -0]},
    "007": {},
    "S\\u004e-2": {
      "a": 98765432109876543210.123
    }
  },
  "after": true
}
"""


def test_metadata_is_verbatim() -> None:
    devices, found = read_all(BODY, "json")
    assert found == []
    assert [(d.number, d.line, d.identifier) for d in devices] == [
        (1, 4, "SN-1"),
        (2, 5, "007"),
        (3, 6, "SN-2"),
    ]
    assert [device.document.decode() for device in devices] == [
        '{"a": 1.0, "s": "é😀 \\u00e9 \\" {", "n": [1E2, -0]}',
        "{}",
        '{\n      "a": 98765432109876543210.123\n    }',
    ]


DEVICES = [{"identifier": f"SN-{n}", "metadata": {"n": n}} for n in range(2500)]
OBJECTS: dict[str, Any] = {"devices": {f"SN-{n}": {"n": n} for n in range(2500)}}


@pytest.mark.parametrize("file_format", ["json", "ndjson"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("value", [OBJECTS, {"devices": DEVICES}, DEVICES])
def test_any_structure_is_read(
    value: Any, indent: int | None, file_format: str
) -> None:
    devices, found = read_all(json.dumps(value, indent=indent), file_format)
    assert found == []
    assert [(device.number, device.identifier) for device in devices] == [
        (n + 1, f"SN-{n}") for n in range(2500)
    ]
    assert [json.loads(device.document) for device in devices] == [
        {"n": n} for n in range(2500)
    ]


@pytest.mark.parametrize("file_format", ["json", "ndjson"])
@pytest.mark.parametrize("indent", [None, 2])
def test_sequence_of_objects_is_read(indent: int | None, file_format: str) -> None:
    content = "\n".join(json.dumps(device, indent=indent) for device in DEVICES[:3])
    devices, found = read_all(content, file_format)
    assert found == []
    lines = 6 if indent else 1
    assert [(device.line, device.identifier) for device in devices] == [
        (n * lines + 1, f"SN-{n}") for n in range(3)
    ]


def set_lengths(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(json_stream, "CHUNK_LENGTH", length)
    monkeypatch.setattr(json_body, "FIRST_LINE_LENGTH", length)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_chunks_can_end_anywhere(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_all(BODY, "json")
    set_lengths(monkeypatch, length)
    assert read_all(BODY, "json") == expected


TOKENS = st.sampled_from(
    [
        *(
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            '"',
            "\\",
            "\n",
            "  ",
            "é",
            "😀",
            "a",
            "-",
            ".",
        ),
        *('"devices":', '{"devices": {', '"SN-1": {', "}, ", '"x": ', "1.5e+10", "-0"),
        *("null", "true", "NaN", "-Infinity", '"\\ud83d\\ude9a"', '"\\u00e9 \\" {"'),
        *('{"identifier": "SN-1", "metadata": {}}', '"identifier": ', '"metadata": {'),
    ]
)


@given(body=st.lists(TOKENS, max_size=30).map("".join), length=st.integers(1, 20))
@example(body='"x": 1.5, "y": 1e+10, "z": -Infinity, "devices": {}}', length=1)
def test_chunk_ends_change_no_result(body: str, length: int) -> None:
    expected = read_all("{\n" + body, "json")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(json_stream, "CHUNK_LENGTH", length)
        assert read_all("{\n" + body, "json") == expected


def test_error_is_reported_with_its_line() -> None:
    body = '{"devices": {"SN-1": {},\n"SN-2": {"a": oops}%s}}' % (
        "\n" * json_stream.CHUNK_LENGTH * 50
    )
    [(line, _, reason)] = problems(body, "json")
    assert line == 2
    assert reason.startswith('expected a JSON value, got "oops}"')


def test_incomplete_body_is_rejected_everywhere() -> None:
    data = BODY.encode().rstrip()
    for end in range(len(data)):
        [*_, (line, _, reason)] = problems(data[:end], "json")
        assert line <= 11
        assert any(
            words in reason
            for words in (
                "the file is empty",
                "the file ends before its JSON is complete",
                "expected a JSON",
                "is not UTF-8",
            )
        )


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("\n\n x", 3, 'expected a JSON object, got "x"'),
        ("{}", 1, 'the member "identifier" is missing'),
        ('{\n"device": {}}', 1, 'the object has no member "devices" or "identifier"'),
        ('{"devices": 1}', 1, 'expected an object with the devices, got "1}"'),
        ('{"devices": {},\n"devices": {}}', 2, 'the member "devices" occurs twice'),
        ('{"devices": {}}\n{}', 2, 'expected the end of the file, got "{}"'),
        (
            '{"devices": {"a": {},\nb}}',
            2,
            'expected a name in double quotes, got "b}}"',
        ),
        ('{"devices": {"a" {}}}', 1, 'expected ":", got "{}}}"'),
        ('{"devices": {"a": {} "b": {}}}', 1, 'expected ",", got ""b": {}}}"'),
        ('{"devices": {"a":\n{"b": x}}}', 2, 'expected a JSON value, got "x}}}"'),
        ('{"devices": {"a": {\n"b": "\n"}}}', 2, 'expected a JSON value, got ""'),
        ('{"x": %s' % ("[" * 100_000), 1, "the JSON has too many levels of nesting"),
        ('[{"identifier": "a"} x]', 1, 'expected ",", got "x]"'),
        ("[1] [2]", 1, 'expected the end of the file, got "[2]"'),
        ("[", 1, "the file ends before its JSON is complete"),
        ('["x', 1, "the file ends before its JSON is complete"),
    ],
)
def test_other_json_is_rejected(body: str, line: int, reason: str) -> None:
    [(found_line, _, found)] = problems(body, "json", allow_empty=True)[-1:]
    assert (found_line, found.split("; the rest")[0]) == (line, reason)


def test_invalid_device_is_one_of_several_errors() -> None:
    body = (
        '{"devices": {"SN-1": {"a": NaN},\n"SN-2": null,\n"SN-3": {},\n"": {},\n'
        '"SN-\\ud800": {}}}'
    )
    devices, found = read_all(body, "json")
    assert [device.identifier for device in devices] == ["SN-3"]
    assert [reason for _, _, reason in found] == [
        "'SN-1': {\"a\": NaN} is not valid JSON",
        "metadata must be a JSON object",
        "the identifier is empty",
        "'SN-\\ud800': {} is not valid JSON",
    ]


def test_invalid_byte_is_error_of_device() -> None:
    body = b'{"devices": {"SN-1": {"a": "\xe9"}, "SN-2": {}}}'
    devices, [(line, _, reason)] = read_all(body, "json")
    assert [device.identifier for device in devices] == ["SN-2"]
    assert line == 1
    assert reason.startswith('"SN-1{"a": "?"}" is not UTF-8')


def test_long_numbers_are_read() -> None:
    for number in ("7" * 5000, "0." + "7" * 5000):
        metadata = f'{{"n": {number}}}'
        body = f'{{"devices": {{"SN-1": {metadata}}}}}'
        assert texts(body, "json") == {"SN-1": metadata}


def test_value_length_is_limited(tmp_path: Any) -> None:
    body = b'{"devices": {"SN-1": {"a": "%s"}}}' % (b"x" * 40_000_000)
    path = tmp_path / "fleet.json"
    path.write_bytes(body)
    assert problems(body, "json") == [
        (1, "", "a value has more than 10,485,760 characters")
    ]
