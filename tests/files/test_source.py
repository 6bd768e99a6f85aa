"""The input: regular files, pipes, gzip, and files that change."""

import gzip
import hashlib
import json
import os
import random
import zlib
from pathlib import Path

import pytest

from bulk_metadata.files import Options
from bulk_metadata.files.device import Problem, ProblemList
from bulk_metadata.files.formats import UnknownFormatError
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import HEAD_BYTES, Source, read_error
from tests.files.reading import read_path

LINES = b"".join(b'{"identifier": "SN-%d", "metadata": {}}\n' % n for n in range(5))
REST = "; the rest of the file was not checked"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fleet.ndjson", LINES),
        ("fleet.jsonl", LINES),
        ("FLEET.NDJSON.GZ", gzip.compress(LINES)),
        # The content determines whether the file is compressed.
        ("fleet.ndjson", gzip.compress(LINES)),
        ("fleet.ndjson.gz", LINES),
        ("members.ndjson.gz", gzip.compress(LINES[:61]) + gzip.compress(LINES[61:])),
        ("fleet.json", b'{"devices": {"SN-1": {}}}'),
        ("fleet.Tsv", b"identifier\ta\nSN-1\tb\n"),
    ],
    ids=range(8),
)
def test_extension_determines_format(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    devices, found = read_path(tmp_path / name)
    assert devices
    assert found == []


def test_format_option_takes_precedence(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    path.write_bytes(LINES)
    assert len(read_path(path, "ndjson")[0]) == 5
    [(line, _, reason)] = read_path(path)[1]
    assert line == 1
    assert reason.startswith("the header must have one identifier column")


@pytest.mark.parametrize("name", ["fleet", "fleet.txt", "fleet.gz"])
def test_unknown_extension_is_rejected(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(LINES)
    with pytest.raises(UnknownFormatError, match="Set the format with --format"):
        read_path(tmp_path / name)


def test_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    reader, writer = os.pipe()
    os.write(writer, gzip.compress(LINES))
    os.close(writer)
    path.symlink_to(f"/dev/fd/{reader}")
    assert len(read_path(path)[0]) == 5
    os.close(reader)


@pytest.mark.parametrize("end", [b"", b"\0\0\0\0", b"garbage"])
@pytest.mark.parametrize("start", [10, 60, -8])
def test_damaged_gzip_is_rejected(start: int, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson.gz"
    path.write_bytes(gzip.compress(LINES)[:start] + end)
    assert read_path(path)[1] == [(0, "", "the gzip file is damaged or incomplete")]


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("fleet.csv.gz", b"identifier,"),
        ("fleet.json.gz", b'[{"identifier": "SN-1", "metadata":\n{"a": "'),
        ("fleet.ndjson.gz", b'{"identifier": "SN-1", "metadata": {"a": "'),
    ],
)
def test_gzip_damaged_in_first_device_is_rejected(
    name: str, start: bytes, tmp_path: Path
) -> None:
    # The damage is after the bytes from which the file type is detected.
    text = random.Random(1).randbytes(HEAD_BYTES).hex().encode()
    (tmp_path / name).write_bytes(gzip.compress(start + text)[:-9])
    found = read_path(tmp_path / name)
    assert found == ([], [(0, "", "the gzip file is damaged or incomplete")])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "fleet.ndjson.gz",
            gzip.compress(LINES * 2000)[:-9],
            "the gzip file is damaged or incomplete",
        ),
        (
            "fleet.csv",
            b"identifier\n" + b"SN\n" * 1500 + b'"',
            "a double quote is never closed",
        ),
    ],
    ids=["gzip", "csv"],
)
def test_error_after_first_chunk_is_last_problem(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with Source(str(tmp_path / name)) as source:
        chunks = list(DeviceFile(source, Options(allow_empty=True)).read())
    *_, last = [device for chunk in chunks for device in chunk.devices]
    [problem] = chunks[-1].problems
    assert (problem.number, problem.line) == (last.number + 1, last.line + 1)
    assert problem.reason == reason + REST


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(5, "Input/output error"),
            "the file cannot be read: Input/output error",
        ),
        (EOFError(), "the gzip file is damaged or incomplete"),
        (zlib.error("-3"), "the gzip file is damaged or incomplete"),
    ],
)
def test_read_error_is_explained(error: Exception, message: str) -> None:
    assert read_error(3, error).as_problem().reason == message


def test_position_and_digest_cover_the_file(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(LINES)
    with Source(str(path)) as source:
        assert source.size == len(LINES)
        assert source.digest(lambda: None) == hashlib.sha256(LINES).hexdigest()
        file = source.open()
        assert (source.position, source.position) == (0, 0)
        assert file.read() == LINES
        assert source.position == len(LINES)


def test_change_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(LINES)
    with Source(str(path)) as source:
        assert not source.has_changed
        with path.open("ab") as file:
            file.write(LINES)
        assert source.has_changed
    with Source(str(path)) as source:
        # Another file with the same name is not read.
        path.with_suffix(".new").write_bytes(b"x")
        path.with_suffix(".new").rename(path)
        assert not source.has_changed
        assert source.digest(lambda: None)
        assert sum(len(c.devices) for c in DeviceFile(source, Options()).read()) == 10


def test_description_names_changed_options(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(LINES)
    with Source(str(path)) as source:
        assert DeviceFile(source, Options(max_bytes=1)).description == "ndjson"
        options = Options("csv", "windows-1252", "Serial", allow_empty=True)
        assert DeviceFile(source, options).description == (
            "csv encoding='windows-1252' identifier_column='Serial' allow_empty=True"
        )


def test_undefined_byte_of_encoding_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    path.write_bytes(b"identifier;a\nSN-1;\xe4\nSN-2;\x81\n")
    devices, [(line, identifier, reason)] = read_path(path, encoding="windows-1252")
    assert devices[0].document.decode() == '{"a":"ä"}'
    assert (line, identifier) == (3, "SN-2")
    assert reason.endswith("byte 0x81")
    path.write_bytes(b"identifier;a\na\x81b;%sx\x81y%s" % (b"x" * 30, b"y" * 30))
    [(_, _, reason)] = read_path(path, encoding="windows-1252")[1]
    assert '"a?b" is not UTF-8' in reason
    assert f'"{"x" * 20}?{"y" * 19}" is not UTF-8' in reason
    path.write_bytes("identifier\ta\nSN-1\tx\n".encode("utf-16") + b"\x00\xd8\n")
    assert read_path(path)[1][0][0] == 3


@pytest.mark.parametrize(("count", "written"), [(20, 20), (21, 21), (30, 21)])
def test_more_than_20_equal_errors_are_counted(count: int, written: int) -> None:
    messages: list[str] = []
    problems = ProblemList("fleet.csv", messages.append)
    for line in range(count):
        problems.add(Problem(line, line, "SN-1", "wrong", "Correct it."))
    problems.finish()
    assert len(messages) == written


def test_invalid_bytes_are_escaped_in_json_problem() -> None:
    written: list[bytes] = []
    problem = Problem(1, 2, "é\udcf6", "wrong: \udcf6")
    ProblemList("fleet.csv", print, written.append).add(problem)
    assert [json.loads(line) for line in written] == [
        {"problem": "wrong: \\udcf6", "line": 2, "identifier": "é\\udcf6"}
    ]
