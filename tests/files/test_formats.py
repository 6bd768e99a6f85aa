"""What all formats have in common: what they say is what is sent, and is taken."""

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulk_metadata.api.request import parse_body
from bulk_metadata.api.validation import validate
from bulk_metadata.client.batches import Batcher, split
from bulk_metadata.core.errors import ApiError
from bulk_metadata.files.device import Device
from bulk_metadata.files.reader import read
from tests.support.reading import LIMIT, problems, read_all, texts

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)
# Of every form, and around every limit.
NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
)
FLEETS = st.dictionaries(TEXT.map(str.strip), VALUES, min_size=1, max_size=5)


def as_text(value: Any, **options: Any) -> str:
    return json.dumps(value, **options)


def is_taken(device: Device) -> bool:
    """Tell whether the service takes a call for ``device``."""
    [batch] = Batcher(1000, LIMIT).batches([device])
    try:
        documents = validate(parse_body(batch.body))
    except ApiError:
        return False
    return {key: bytes(text) for key, text in documents.items()} == {
        device.identifier: device.document
    }


@given(fleet=FLEETS, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_ndjson_and_json_say_the_same_to_the_byte(
    fleet: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    documents = {
        identifier: as_text(value, ensure_ascii=ascii_only)
        for identifier, value in fleet.items()
    }
    lines = "".join(
        f'{{"identifier": {as_text(identifier)}, "metadata": {document}}}\n'
        for identifier, document in documents.items()
    )
    space = "\n" if indent else ""
    members = f",{space}".join(
        f"{as_text(identifier)}:{space}{document}"
        for identifier, document in documents.items()
    )
    body = f'{{"devices":{space}{{{members}}}}}'
    in_lines, wrong_in_lines = read_all(lines, "ndjson")
    in_body, wrong_in_body = read_all(body, "json")
    assert [problem[1:] for problem in wrong_in_lines] == [
        problem[1:] for problem in wrong_in_body
    ]
    for devices in (in_lines, in_body):
        for device in devices:
            assert device.document.decode() == documents[device.identifier]


@given(
    document=VALUES.map(as_text) | NUMBERS.map(lambda number: f'{{"n": {number}}}'),
    identifier=TEXT,
)
def test_what_is_sound_is_what_the_service_takes(
    document: str, identifier: str
) -> None:
    line = f'{{"identifier": {as_text(identifier)}, "metadata": {document}}}\n'
    devices, wrong = read_all(line, "ndjson")
    assert len(devices) + len(wrong) == 1
    # The service takes these, and finds no device.
    unknown = not identifier.strip() or "\0" in identifier
    raw = Device(1, 1, identifier.strip(), document.encode())
    assert bool(devices) == (is_taken(raw) and not unknown)
    assert all(is_taken(device) for device in devices)


def test_one_fleet_in_all_formats() -> None:
    expected = {
        "SN-1": '{"a":"x","b":{"c":1.50}}',
        "007": '{"a":"é"}',
    }
    lines = "".join(
        f'{{"identifier":"{identifier}","metadata":{document}}}\n'
        for identifier, document in expected.items()
    )
    body = json.dumps({"devices": {"SN-1": 1, "007": 2}})
    body = body.replace("1}", "}").replace("1,", expected["SN-1"] + ",")
    body = body.replace(": 2", ": " + expected["007"])
    assert texts(lines, "ndjson") == expected
    assert texts(body, "json") == expected
    for separator, file_format in ((",", "csv"), (";", "csv"), ("\t", "tsv")):
        rows = [
            ["identifier", "a", "b.c:number"],
            ["SN-1", "x", "1.50"],
            ["007", "é", ""],
        ]
        table = "\r\n".join(separator.join(row) for row in rows)
        assert texts(table, file_format) == expected


CELLS = st.text(
    alphabet=st.characters(codec="utf-8", exclude_characters="\0"), min_size=1
)


@given(
    fleet=st.dictionaries(
        CELLS.map(str.strip).filter(bool),
        st.fixed_dictionaries(
            {},
            optional={
                "s": CELLS.map(as_text),
                "n": NUMBERS,
                "b": st.sampled_from(["true", "false"]),
                "j": VALUES.map(as_text),
            },
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_fleet_in_all_formats(fleet: dict[str, dict[str, str]]) -> None:
    documents = {}
    for identifier, members in fleet.items():
        pairs = ",".join(f'"{key}":{text}' for key, text in members.items())
        documents[identifier] = f"{{{pairs}}}"
    body = ",".join(f"{as_text(key)}:{text}" for key, text in documents.items())
    lines = (
        f'{{"identifier":{as_text(key)},"metadata":{text}}}\n'
        for key, text in documents.items()
    )
    files = [("ndjson", "".join(lines)), ("json", f'{{"devices":{{{body}}}}}')]
    for file_format, delimiter in (("csv", ","), ("csv", ";"), ("tsv", "\t")):
        file = io.StringIO(newline="")
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["s", "n:number", "identifier", "b:boolean", "j:json"])
        for identifier, members in fleet.items():
            string = json.loads(members.get("s", '""'))
            others = [members.get(key, "") for key in "nbj"]
            writer.writerow([string, others[0], identifier, *others[1:]])
        files.append((file_format, file.getvalue()))
    sound = {key: text for key, text in documents.items() if is_sound(text)}
    for file_format, content in files:
        devices, wrong = read_all(content, file_format)
        assert [(d.identifier, exact(d.document)) for d in devices] == [
            (identifier, exact(document.encode()))
            for identifier, document in sound.items()
        ]
        assert [identifier for _, identifier, _ in wrong] == [
            identifier for identifier in documents if identifier not in sound
        ]


def is_sound(document: str) -> bool:
    """Tell whether PostgreSQL can hold ``document``, as the service sees it."""
    return is_taken(Device(1, 1, "SN-1", document.encode()))


def exact(document: bytes) -> Any:
    """Return what ``document`` says, its numbers digit for digit, whatever the order of
    its members."""
    return json.loads(
        document,
        parse_int=lambda text: ("number", text),
        parse_float=lambda text: ("number", text),
        object_pairs_hook=lambda pairs: sorted(pairs, key=lambda pair: pair[0]),
    )


@given(documents=st.lists(VALUES.map(as_text) | NUMBERS.map('{{"n":{}}}'.format)))
def test_what_is_sound_is_taken_together(documents: list[str]) -> None:
    lines = (
        f'{{"identifier":"SN-{number}","metadata":{document}}}\n'
        for number, document in enumerate(documents)
    )
    devices, wrong = read_all("".join(lines), "ndjson")
    assert len(devices) + len(wrong) == len(documents)
    for batch in Batcher(1000, LIMIT).batches(devices):
        taken = validate(parse_body(batch.body))
        assert [(key, bytes(text)) for key, text in taken.items()] == [
            (device.identifier, device.document) for device in devices
        ]


@pytest.mark.parametrize("file_format", ["ndjson", "json", "csv", "tsv"])
def test_a_larger_file_takes_no_more_memory(file_format: str, tmp_path: Path) -> None:
    peaks = []
    for count in (10_000, 100_000):
        path = tmp_path / f"{count}"
        with path.open("w") as file:
            write_fleet(file, file_format, count)
        with path.open("rb") as content:
            tracemalloc.start()
            read_count = sum(
                len(chunk.devices) for chunk in read(content, file_format, LIMIT)
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert read_count == count
    # For ten times the devices. Where a piece ends within a device, two are held.
    assert peaks[1] < 2 * peaks[0]


def write_fleet(file: TextIO, file_format: str, count: int) -> None:
    head, row, tail = {
        "ndjson": ("", '{{"identifier": "SN-{:06}", "metadata": {{"a": "%s"}}}}\n', ""),
        "json": ('{"devices": {', '"SN-{:06}": {{"a": "%s"}},', '"SN-": {}}}'),
        "csv": ("identifier,a\n", "SN-{:06},%s\n", ""),
        "tsv": ("identifier\ta\n", "SN-{:06}\t%s\n", ""),
    }[file_format]
    # So long that the smaller file, too, is more than a piece of it.
    row = row.replace("%s", "x" * 100)
    file.write(head)
    file.writelines(map(row.format, range(count - bool(tail))))
    file.write(tail)


@pytest.mark.parametrize("file_format", ["ndjson", "json", "csv", "tsv"])
def test_nothing_is_no_device(file_format: str) -> None:
    assert read_all("", file_format)[0] == []
    assert len(problems("", file_format)) == (file_format != "ndjson")


def device(number: int, identifier: str, document: bytes = b"{}") -> Device:
    return Device(number, number, identifier, document)


def test_batches_have_as_many_devices_and_bytes_as_are_allowed() -> None:
    devices = [device(number, f"SN-{number:03}") for number in range(100)]
    assert [len(b.devices) for b in Batcher(30, LIMIT).batches(devices)] == [
        30,
        30,
        30,
        10,
    ]
    size = len(b'{"devices":{"SN-000":{},"SN-001":{}}}')
    for limit, most in ((size, 2), (size - 1, 1)):
        batches = list(Batcher(1000, limit).batches(devices))
        assert max(len(batch.devices) for batch in batches) == most
        assert max(len(batch.body) for batch in batches) <= limit
        assert [d for batch in batches for d in batch.devices] == devices
    assert batches[0].body == b'{"devices":{"SN-000":{}}}'


def test_a_lower_limit_holds_for_the_batches_that_follow() -> None:
    batcher = Batcher(1000, LIMIT)
    devices = (device(number, f"SN-{number:03}") for number in range(4000))
    batches = batcher.batches(devices)
    first = next(batches)
    batcher.reduce(len(first.body) // 2)
    rest = list(batches)
    assert len(first.devices) == 1000
    assert max(len(batch.body) for batch in rest[1:]) <= len(first.body) // 2
    # It is never raised again.
    batcher.reduce(LIMIT)
    [small] = batcher.batches([device(1, "a")])
    assert small.body == b'{"devices":{"a":{}}}'


def test_halves_do_what_the_whole_did() -> None:
    devices = [device(n, name) for n, name in enumerate(['"', "é", "\n"], 1)]
    [batch] = Batcher(1000, LIMIT).batches(devices)
    first, second = split(batch)
    assert [*first.devices, *second.devices] == devices
    assert json.loads(batch.body)["devices"] == {
        **json.loads(first.body)["devices"],
        **json.loads(second.body)["devices"],
    }
