"""Validation of a complete file: all problems are printed, and nothing is sent."""

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bulk_metadata.client.journal import Journal
from bulk_metadata.client.progress import Display
from bulk_metadata.client.push import check
from bulk_metadata.client.signals import StoppedError
from bulk_metadata.files.reader import read
from bulk_metadata.files.source import Source
from tests.conftest import Organization
from tests.support.service import ROOT, Service

LINES = [f'{{"identifier": "SN-{number}", "metadata": {{}}}}' for number in range(5)]
FLEET = "".join(line + "\n" for line in LINES).encode()


def push(
    folder: Path, *arguments: str, stdin: bytes = b"", key: str = "tlm_none"
) -> subprocess.CompletedProcess[str]:
    """Run the client, by default with an unused port."""
    if "--url" not in arguments:
        arguments = (*arguments, "--url", "http://127.0.0.1:1", "--attempts", "1")
    done = subprocess.run(
        [sys.executable, "-m", "bulk_metadata.client", "push", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "BULK_METADATA_API_KEY": key},
        input=stdin,
        capture_output=True,
        timeout=120,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


def is_valid(done: subprocess.CompletedProcess[str]) -> bool:
    """Return whether the check found no problems, so that sending began."""
    return "Sending ..." in done.stderr


def test_all_problems_are_printed_and_nothing_is_sent(
    tmp_path: Path, service: Service, acme: Organization
) -> None:
    acme.insert("SN-0", "SN-1")
    before = acme.rows()
    lines = [
        *LINES,
        "x",
        ' {"identifier": " SN-1 ", "metadata": {"again": 1}}',
        LINES[3],
    ]
    (tmp_path / "fleet.ndjson").write_text("\n".join([*lines, LINES[3]]))
    url = f"http://127.0.0.1:{service.port}"
    done = push(tmp_path, "fleet.ndjson", "--url", url, key=acme.key)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "Reading ...",
        "Checking ...",
        "fleet.ndjson, line 6: JSON is malformed: invalid character (byte 0)",
        'fleet.ndjson, line 7, device "SN-1": the same identifier as on line 2',
        'fleet.ndjson, line 8, device "SN-3": the same identifier as on line 4',
        'fleet.ndjson, line 9, device "SN-3": the same identifier as on line 4',
        "Error: 4 problems.",
    ]
    assert acme.rows() == before
    assert os.listdir(tmp_path) == ["fleet.ndjson"]


def test_no_check_sends_valid_devices(
    tmp_path: Path, service: Service, acme: Organization
) -> None:
    acme.insert("SN-0", "SN-4", metadata={"old": 1})
    lines = [LINES[0], "x", '{"identifier": "SN-4", "metadata": null}', LINES[3]]
    (tmp_path / "fleet.ndjson").write_text("\n".join(lines))
    url = f"http://127.0.0.1:{service.port}"
    done = push(tmp_path, "fleet.ndjson", "--url", url, "--no-check", key=acme.key)
    assert done.returncode == 1
    assert done.stderr.splitlines()[2:] == [
        "fleet.ndjson, line 2: JSON is malformed: invalid character (byte 0)",
        'fleet.ndjson, line 3, device "SN-4": metadata must be a JSON object',
        "Error: 2 invalid.",
    ]
    assert acme.metadata() == {"SN-0": {}, "SN-4": {"old": 1}}
    assert (tmp_path / "fleet.ndjson.results.csv").read_text().splitlines() == [
        "line,identifier,deviceId,status",
        f"1,SN-0,{acme.ids()['SN-0']},updated",
        "2,,,invalid",
        "3,SN-4,,invalid",
        "4,SN-3,,not_found",
    ]
    assert not (tmp_path / "fleet.ndjson.results.csv.journal").exists()


def test_repeated_identifiers_are_found_fast(tmp_path: Path) -> None:
    count = 50_000
    lines = [
        f'{{"identifier": "SN-{number}", "metadata": {{}}}}\n'
        for number in range(count)
    ]
    (tmp_path / "fleet.ndjson").write_text("".join([*lines, *lines]))
    done = push(tmp_path, "fleet.ndjson", "--quiet")
    *problems, end = done.stderr.splitlines()
    assert problems == [
        f'fleet.ndjson, line {count + number + 1}, device "SN-{number}": '
        f"the same identifier as on line {number + 1}"
        for number in range(count)
    ]
    assert end == "Error: 50,000 problems."


def test_problems_are_printed_as_json(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text('identifier,n:number\n"a\x1b[2J",x\n')
    done = push(tmp_path, "fleet.csv", "--json", "--quiet")
    assert done.returncode == 1
    problem, summary = map(json.loads, done.stdout.splitlines())
    assert problem == {
        "problem": 'column "n:number": "x" is not a number',
        "line": 2,
        "identifier": "a\x1b[2J",
    }
    assert summary["summary"]["failure"] == "1 problem"
    # Control characters are escaped on a terminal.
    done = push(tmp_path, "fleet.csv", "--quiet")
    assert done.stderr.splitlines() == [
        'fleet.csv, line 2, device "a\\x1b[2J": column "n:number": "x" is not a number',
        "Error: 1 problem.",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.ndjson", b""),
        ("empty.ndjson.gz", gzip.compress(b"")),
        ("header.csv", b"identifier,a\n"),
        ("none.json", b'{"devices": {}}'),
    ],
)
def test_file_without_devices_is_rejected(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = push(tmp_path, name)
    assert done.returncode == 1
    assert done.stderr.endswith("Error: The file contains no devices.\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fleet.ndjson", FLEET),
        ("fleet.jsonl", FLEET),
        ("FLEET.NDJSON", FLEET),
        ("fleet.ndjson.gz", gzip.compress(FLEET)),
        ("FLEET.NDJSON.GZ", gzip.compress(FLEET)),
        # The name does not determine the compression.
        ("fleet.ndjson", gzip.compress(FLEET)),
        ("fleet.ndjson.gz", FLEET),
        ("members.ndjson.gz", gzip.compress(FLEET[:61]) + gzip.compress(FLEET[61:])),
        ("fleet.json.gz", gzip.compress(b'{"devices": {"SN-1": {}}}')),
        ("fleet.tsv", b"identifier\ta\nSN-1\tb\n"),
    ],
)
def test_extension_determines_format(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_valid(push(tmp_path, name))


def test_format_option_overrides_extension(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(FLEET)
    assert is_valid(push(tmp_path, "fleet.csv", "--format", "ndjson"))
    assert not is_valid(push(tmp_path, "fleet.csv"))


def test_unknown_extension_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "fleet.txt").write_bytes(FLEET)
    done = push(tmp_path, "fleet.txt")
    assert done.returncode == 2
    assert (
        'Unknown file name extension ".txt". Set the format with --format.'
        in done.stderr
    )


@pytest.mark.parametrize("content", [FLEET, gzip.compress(FLEET)])
def test_standard_input_is_read(content: bytes, tmp_path: Path) -> None:
    assert is_valid(push(tmp_path, "-", "--format", "ndjson", stdin=content))
    done = push(tmp_path, "-", "--format", "ndjson", stdin=b"x\n")
    assert "standard input, line 1: JSON is malformed" in done.stderr
    assert push(tmp_path, "-", stdin=content).returncode == 2


def test_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "fleet.ndjson"
    os.mkfifo(pipe)
    writer = subprocess.Popen(
        [sys.executable, "-c", f"open({str(pipe)!r}, 'wb').write({FLEET!r})"]
    )
    assert is_valid(push(tmp_path, "fleet.ndjson"))
    assert writer.wait(60) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(FLEET)[:-10], "Compressed file ended before"),
        (gzip.compress(FLEET)[:-4] + b"0000", "Incorrect length of data produced"),
        (gzip.compress(FLEET)[:10] + b"\xff" * 40, "Error -3 while decompressing"),
        (gzip.compress(FLEET) + b"garbage", "Not a gzipped file"),
    ],
)
def test_broken_gzip_file_is_reported(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "fleet.ndjson.gz").write_bytes(content)
    done = push(tmp_path, "fleet.ndjson.gz")
    assert done.returncode == 1
    assert "fleet.ndjson.gz, line " in done.stderr
    assert f": cannot read: {reason}" in done.stderr


def test_closed_standard_input_is_reported(tmp_path: Path) -> None:
    def without_stdin(*arguments: str, **environment: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "bulk_metadata.client", "push", *arguments]
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" <&-', "sh", *command, "--url", "http://localhost"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stderr.splitlines()[-1]

    assert without_stdin("-", "--format", "csv", BULK_METADATA_API_KEY="tlm_none") == (
        1,
        "Error: standard input is closed.",
    )
    (tmp_path / "fleet.ndjson").write_bytes(FLEET)
    assert without_stdin("fleet.ndjson", BULK_METADATA_API_KEY="") == (
        2,
        "Error: No API key: Set BULK_METADATA_API_KEY, or use --key-file FILE.",
    )


def test_results_never_replace_input_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.ndjson").write_bytes(FLEET)
    done = push(tmp_path, "fleet.ndjson", "--results", f"{tmp_path}/fleet.ndjson")
    assert done.returncode == 2
    assert "--results must not be the file that is pushed." in done.stderr
    assert (tmp_path / "fleet.ndjson").read_bytes() == FLEET


def test_long_identifier_is_truncated(tmp_path: Path) -> None:
    identifier = "x" * 1_000_000
    (tmp_path / "fleet.csv").write_text(f"identifier,a:number\n{identifier},y\n")
    done = push(tmp_path, "fleet.csv", "--quiet")
    assert done.stderr.splitlines()[0] == (
        f'fleet.csv, line 2, device "{"x" * 100}...": '
        'column "a:number": "y" is not a number'
    )
    problem, _ = push(tmp_path, "fleet.csv", "--json", "--quiet").stdout.splitlines()
    assert json.loads(problem)["identifier"] == identifier


@pytest.mark.parametrize("check", ["--check", "--no-check"])
def test_invalid_utf8_is_reported(check: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(b"identifier,n:number\nSN-1\xe9,\xe9\n")
    done = push(tmp_path, "fleet.csv", check, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0]) == {
        "problem": "not UTF-8",
        "line": 2,
        "identifier": "",
    }


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    assert push(tmp_path, "fleet.ndjson").returncode == 2
    assert push(tmp_path, ".").returncode == 2


def test_stopped_check_lists_no_devices(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(FLEET)
    source = Source(str(path))
    journal = Journal(tmp_path / "journal", {}, resume=False)
    stop = threading.Event()
    stop.set()
    with source.open() as file:
        chunks = read(file, "ndjson", 10_000_000)
        with pytest.raises(StoppedError):
            check(source, chunks, journal, Display("fleet.ndjson"), stop)
    assert not journal.is_checked
    assert journal.counts() == {}
    journal.close(delete=True)
