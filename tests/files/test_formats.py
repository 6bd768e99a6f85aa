"""All formats: the service accepts valid devices, and each format reads the same."""

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
from bulk_metadata.client.batches import Batcher
from bulk_metadata.core.errors import ApiError
from bulk_metadata.files import Options
from bulk_metadata.files.device import Device
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import Source
from bulk_metadata.files.table import csv_writer
from tests.files.reading import LIMIT, read_all, read_path
from tests.files.test_table import CELLS
from tests.random_search import FACTOR

TEXT = st.text(alphabet=st.characters(codec="utf-8"), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
    ),
    max_leaves=8,
)
# Numbers of every form, and around every limit.
NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
)
FLEETS = st.dictionaries(TEXT.map(str.strip), VALUES, min_size=1, max_size=5)
DOCUMENTS = VALUES.map(json.dumps) | NUMBERS.map('{{"n":{}}}'.format)


def line(identifier: str, document: str) -> str:
    return f'{{"identifier": {json.dumps(identifier)}, "metadata": {document}}}\n'


def accepted(devices: list[Device]) -> dict[str, bytes]:
    """Return the devices in requests with these devices that the service accepts."""
    found: dict[str, bytes] = {}
    for batch in Batcher(1000, LIMIT).batches(devices):
        try:
            documents = validate(parse_body(batch.body))
        except ApiError:
            continue
        found.update((key, bytes(text)) for key, text in documents.items())
    return found


def is_accepted(document: str) -> bool:
    return bool(accepted([Device(1, 1, "SN-1", document.encode())]))


@given(fleet=FLEETS, ascii_only=st.booleans(), indent=st.sampled_from([None, 2]))
def test_ndjson_and_json_read_the_same(
    fleet: dict[str, Any], ascii_only: bool, indent: int | None
) -> None:
    documents = {
        identifier: json.dumps(value, ensure_ascii=ascii_only)
        for identifier, value in fleet.items()
    }
    space = "\n" if indent else ""
    members = f",{space}".join(
        f"{json.dumps(identifier)}:{space}{document}"
        for identifier, document in documents.items()
    )
    body = f'{{"devices":{space}{{{members}}}}}'
    lines = "".join(line(*item) for item in documents.items())
    in_lines, wrong_in_lines = read_all(lines, "ndjson")
    in_body, wrong_in_body = read_all(body, "json")
    assert [found[1:] for found in wrong_in_lines] == [
        found[1:] for found in wrong_in_body
    ]
    for devices in (in_lines, in_body):
        for device in devices:
            assert device.document.decode() == documents[device.identifier]


@given(document=DOCUMENTS, identifier=TEXT)
def test_service_accepts_exactly_the_valid_devices(
    document: str, identifier: str
) -> None:
    devices, found = read_all(line(identifier, document), "ndjson")
    assert len(devices) + len(found) == 1
    # The service accepts such identifiers, and finds no device.
    is_unknown = not identifier.strip() or "\0" in identifier
    assert bool(devices) == (is_accepted(document) and not is_unknown)


@given(documents=st.lists(DOCUMENTS))
def test_service_accepts_valid_devices_together(documents: list[str]) -> None:
    lines = [line(f"SN-{number}", text) for number, text in enumerate(documents)]
    devices, found = read_all("{}\n" + "".join(lines), "ndjson")
    assert len(devices) + len(found) == len(documents) + 1
    assert accepted(devices) == {
        device.identifier: device.document for device in devices
    }


@given(
    fleet=st.dictionaries(
        CELLS.map(str.strip).filter(bool),
        st.fixed_dictionaries(
            {"s": CELLS.map(json.dumps)},
            optional={
                "n": NUMBERS,
                "b": st.sampled_from(["true", "false"]),
                "j": VALUES.map(json.dumps),
            },
        ),
        min_size=1,
        max_size=5,
    )
)
def test_all_formats_read_the_same(
    fleet: dict[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    documents = {}
    for identifier, members in fleet.items():
        pairs = ",".join(f'"{key}":{text}' for key, text in members.items())
        documents[identifier] = f"{{{pairs}}}"
    body = ",".join(f"{json.dumps(key)}:{text}" for key, text in documents.items())
    lines = "".join(line(*item) for item in documents.items())
    array = lines.strip().replace("\n", ",\n")
    path = tmp_path_factory.getbasetemp() / "fleet"
    contents = {
        "ndjson": lines,
        "json": f'{{"devices":{{{body}}}}}',
        "array.json": f"[{array}]",
        "csv": table(fleet, ","),
        "semicolon.csv": table(fleet, ";"),
        "tsv": table(fleet, "\t"),
    }
    valid = {key: text for key, text in documents.items() if is_accepted(text)}
    for suffix, content in contents.items():
        file = path.with_suffix(f".{suffix}")
        file.write_bytes(content.encode())
        devices, found = read_path(file)
        assert [(d.identifier, exact(d.document)) for d in devices] == [
            (identifier, exact(document.encode()))
            for identifier, document in valid.items()
        ]
        assert [identifier for _, identifier, _ in found] == [
            identifier for identifier in documents if identifier not in valid
        ]


def table(fleet: dict[str, dict[str, str]], separator: str) -> str:
    with io.StringIO(newline="") as file:
        writer = csv_writer(file, separator)
        writer.writerow(["s", "n:number", "identifier", "b:boolean", "j:json"])
        for identifier, members in fleet.items():
            others = [members.get(key, "") for key in "nbj"]
            cells = [json.loads(members["s"]), others[0], identifier, *others[1:]]
            writer.writerow(cells)
        return file.getvalue()


def exact(document: bytes) -> Any:
    """Return the value of ``document`` with all digits of its numbers, in any order of
    its members."""
    return json.loads(
        document,
        parse_int=lambda text: ("number", text),
        parse_float=lambda text: ("number", text),
        object_pairs_hook=lambda pairs: sorted(pairs, key=lambda pair: pair[0]),
    )


@pytest.mark.soak
@pytest.mark.parametrize("file_format", ["ndjson", "json", "csv", "tsv"])
def test_memory_is_independent_of_file_size(file_format: str, tmp_path: Path) -> None:
    peaks = []
    for count in (3_000, 10_000 * FACTOR):
        path = tmp_path / f"{count}.{file_format}"
        with path.open("w") as file:
            write_fleet(file, file_format, count)
        with Source(str(path)) as source:
            tracemalloc.start()
            chunks = DeviceFile(source, Options()).read()
            read_count = sum(len(chunk.devices) for chunk in chunks)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert read_count == count
    # Two devices are in memory where a chunk ends within a device.
    assert peaks[1] < 2 * peaks[0]


def write_fleet(file: TextIO, file_format: str, count: int) -> None:
    head, row, tail = {
        "ndjson": ("", '{{"identifier": "SN-{:06}", "metadata": {{"a": "%s"}}}}\n', ""),
        "json": ('{"devices": {', '"SN-{:06}": {{"a": "%s"}},', '"SN-": {}}}'),
        "csv": ("identifier,a\n", "SN-{:06},%s\n", ""),
        "tsv": ("identifier\ta\n", "SN-{:06}\t%s\n", ""),
    }[file_format]
    # With so many characters even the smaller file has more than one chunk.
    row = row.replace("%s", "x" * 100)
    file.write(head)
    file.writelines(map(row.format, range(count - bool(tail))))
    file.write(tail)
