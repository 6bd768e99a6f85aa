"""The API's own body, of any size, read piece by piece."""

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bulk_metadata.files import json_body
from bulk_metadata.files.device import FileError
from bulk_metadata.files.json_body import read_json_body
from tests.support.reading import problems, read_all, texts

TAIL = "; nothing can be read from here on"

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


def test_metadata_stays_as_it_stands() -> None:
    devices, wrong = read_all(BODY, "json")
    assert wrong == []
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


def test_a_body_on_one_line() -> None:
    body = json.dumps({"devices": {f"SN-{n}": {"n": n} for n in range(2500)}})
    devices, wrong = read_all(body, "json")
    assert wrong == []
    assert [device.number for device in devices] == list(range(1, 2501))
    assert {device.line for device in devices} == {1}


@pytest.mark.parametrize("size", [1, 2, 7])
def test_it_does_not_matter_where_pieces_end(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_all(BODY, "json")
    monkeypatch.setattr(json_body, "PIECE_BYTES", size)
    assert read_all(BODY, "json") == whole


TOKENS = st.sampled_from(
    [
        *[
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
        ],
        *['"devices":', '{"devices": {', '"SN-1": {', "}, ", '"x": ', "1.5e+10", "-0"],
        *["null", "true", "NaN", "-Infinity", '"\\ud83d\\ude9a"', '"\\u00e9 \\" {"'],
    ]
)


@given(body=st.lists(TOKENS, max_size=30).map("".join), size=st.integers(1, 20))
@example(body='{"x": 1.5, "y": 1e+10, "devices": {"a": -0.25e-7}}', size=1)
def test_nor_for_anything_that_looks_like_a_body(body: str, size: int) -> None:
    whole = read_all(body, "json")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(json_body, "PIECE_BYTES", size)
        assert read_all(body, "json") == whole


def test_a_mistake_is_found_where_it_is_however_long_the_file() -> None:
    body = '{"devices": {"SN-1": {},\n"SN-2": {"a": oops}%s}}' % (
        "\n" * json_body.PIECE_BYTES * 50
    )
    assert problems(body, "json") == [(2, "", "Expecting value" + TAIL)]


def test_a_body_that_breaks_off_anywhere_is_a_problem() -> None:
    data = BODY.encode().rstrip()
    for end in range(len(data)):
        [*_, (line, _, reason)] = problems(data[:end], "json")
        assert reason.endswith(TAIL)
        assert 1 <= line <= 11


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        ("", 1, "'{' is expected"),
        ("[]", 1, "'{' is expected"),
        ('{"identifier": "a"}\n{"identifier": "b"}', 1, 'there is no "devices"'),
        ("{}", 1, 'there is no "devices"'),
        ('{"device": {}}', 1, 'there is no "devices"'),
        ('{"devices": []}', 1, "devices must be an object"),
        ('{"devices": {},\n"devices": {}}', 2, 'a second "devices"'),
        ('{"devices": {}}\n{}', 2, "the object has ended, and something follows it"),
        ('{"devices": {"a": {},\n}}', 2, "a member's name is expected"),
        ('{"devices": {"a" {}}}', 1, "':' is expected"),
        ('{"devices": {"a": {} "b": {}}}', 1, "',' is expected"),
        ('{"devices": {"a":\n{"b": x}}}', 2, "Expecting value"),
        ('{"devices": {"a": {\n"b": "\n"}}}', 2, "Invalid control character at"),
        ('{"x": %s' % ("[" * 100_000), 1, "nested too deeply"),
    ],
)
def test_what_is_no_such_body(body: str, line: int, reason: str) -> None:
    assert problems(body, "json") == [(line, "", reason + TAIL)]


def test_a_device_that_is_wrong_is_one_of_several_problems() -> None:
    body = (
        '{"devices": {"SN-1": {"a": NaN},\n"SN-2": null,\n"SN-3": {},\n"": {},\n'
        '"SN-\\ud800": {}}}'
    )
    devices, wrong = read_all(body, "json")
    assert [device.identifier for device in devices] == ["SN-3"]
    assert wrong == [
        (1, "SN-1", "metadata: JSON is malformed: invalid character (byte 6)"),
        (2, "SN-2", "metadata must be a JSON object"),
        (4, "", "the identifier is empty"),
        (5, "", "not UTF-8"),
    ]


def test_bytes_that_are_not_utf_8() -> None:
    body = b'{"devices": {"SN-1": {"a": "\xe9"}, "SN-2": {}}}'
    devices, wrong = read_all(body, "json")
    assert [device.identifier for device in devices] == ["SN-2"]
    assert wrong == [(1, "", "not UTF-8")]


def test_a_character_that_breaks_off_at_the_end() -> None:
    [(_, _, reason)] = problems(b'{"devices": {}}\xe2\x82', "json")
    assert reason == "the object has ended, and something follows it" + TAIL


def test_utf_16_is_named() -> None:
    reason = "UTF-16, where UTF-8 is needed" + TAIL
    assert problems(BODY.encode("utf-16"), "json") == [(1, "", reason)]


def test_numbers_of_any_length() -> None:
    for number in ("7" * 5000, "0." + "7" * 5000):
        metadata = f'{{"n": {number}}}'
        body = f'{{"devices": {{"SN-1": {metadata}}}}}'
        assert texts(body, "json") == {"SN-1": metadata}


def test_a_value_may_not_have_any_length() -> None:
    body = b'{"devices": {"SN-1": {"a": "%s"}}}' % (b"x" * 20_000_000)
    file = io.BytesIO(body)
    with pytest.raises(FileError, match="a value of over 10485760 bytes"):
        list(read_json_body(file))
    # It did not have to read all of it to see that.
    assert file.tell() < len(body)
