"""The check of a whole file, as it is seen: all problems at once, and nothing sent."""

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bulk_metadata.client.check import check
from bulk_metadata.client.journal import Journal
from bulk_metadata.client.progress import Display
from bulk_metadata.client.signals import Stopped
from bulk_metadata.files.reader import read
from bulk_metadata.files.source import Source
from tests.conftest import Organization
from tests.support.service import ROOT, Service

LINES = [f'{{"identifier": "SN-{number}", "metadata": {{}}}}' for number in range(5)]
FLEET = "".join(line + "\n" for line in LINES).encode()


def push(
    folder: Path, *arguments: str, stdin: bytes = b"", key: str = "tlm_none"
) -> subprocess.CompletedProcess[str]:
    """Run the client, by default against a port where nobody listens."""
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


def was_sound(done: subprocess.CompletedProcess[str]) -> bool:
    """Tell whether the check found nothing, so that sending was tried."""
    return "Sending ..." in done.stderr


def test_all_problems_are_shown_and_nothing_is_sent(
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
        "Error: 4 problems. Nothing was sent.",
    ]
    assert acme.rows() == before
    # Nothing is left behind that would stand in the way of the next run.
    assert os.listdir(tmp_path) == ["fleet.ndjson"]


def test_without_the_check_the_rest_is_sent(
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
    ]
    assert acme.metadata() == {"SN-0": {}, "SN-4": {"old": 1}}
    assert (tmp_path / "fleet.ndjson.results.csv").read_text().splitlines() == [
        "line,identifier,deviceId,status",
        f"1,SN-0,{acme.ids()['SN-0']},updated",
        "2,,,invalid",
        "3,SN-4,,invalid",
        "4,SN-3,,not_found",
    ]
    # There is nothing left that could be done about them.
    assert not (tmp_path / "fleet.ndjson.results.csv.journal").exists()


def test_a_file_that_holds_everything_twice(tmp_path: Path) -> None:
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
    assert end == "Error: 50,000 problems. Nothing was sent."


def test_problems_as_json(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text('identifier,n:number\n"a\x1b[2J",x\n')
    done = push(tmp_path, "fleet.csv", "--json", "--quiet")
    assert done.returncode == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {
            "problem": 'column "n:number": "x" is not a number',
            "line": 2,
            "identifier": "a\x1b[2J",
        }
    ]
    # Where a person may look nothing moves the cursor.
    done = push(tmp_path, "fleet.csv", "--quiet")
    assert done.stderr.splitlines() == [
        'fleet.csv, line 2, device "a\\x1b[2J": column "n:number": "x" is not a number',
        "Error: 1 problem. Nothing was sent.",
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
def test_a_file_without_devices(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    done = push(tmp_path, name)
    assert done.returncode == 1
    assert done.stderr.endswith("Error: There is no device. Nothing was sent.\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fleet.ndjson", FLEET),
        ("fleet.jsonl", FLEET),
        ("FLEET.NDJSON", FLEET),
        ("fleet.ndjson.gz", gzip.compress(FLEET)),
        ("FLEET.NDJSON.GZ", gzip.compress(FLEET)),
        # It is gzip that counts, not the name.
        ("fleet.ndjson", gzip.compress(FLEET)),
        ("fleet.ndjson.gz", FLEET),
        ("members.ndjson.gz", gzip.compress(FLEET[:61]) + gzip.compress(FLEET[61:])),
        ("fleet.json.gz", gzip.compress(b'{"devices": {"SN-1": {}}}')),
        ("fleet.tsv", b"identifier\ta\nSN-1\tb\n"),
    ],
)
def test_the_name_tells_the_format(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert was_sound(push(tmp_path, name))


def test_an_option_tells_the_format_before_the_name(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(FLEET)
    assert was_sound(push(tmp_path, "fleet.csv", "--format", "ndjson"))
    assert not was_sound(push(tmp_path, "fleet.csv"))


def test_a_name_that_tells_no_format(tmp_path: Path) -> None:
    (tmp_path / "fleet.txt").write_bytes(FLEET)
    done = push(tmp_path, "fleet.txt")
    assert done.returncode == 2
    assert (
        "The name must end in one of: .ndjson, .jsonl, .json, .csv, .tsv" in done.stderr
    )


@pytest.mark.parametrize("content", [FLEET, gzip.compress(FLEET)])
def test_standard_input(content: bytes, tmp_path: Path) -> None:
    assert was_sound(push(tmp_path, "-", "--format", "ndjson", stdin=content))
    done = push(tmp_path, "-", "--format", "ndjson", stdin=b"x\n")
    assert "standard input, line 1: JSON is malformed" in done.stderr
    assert push(tmp_path, "-", stdin=content).returncode == 2


def test_a_pipe_that_has_a_name(tmp_path: Path) -> None:
    pipe = tmp_path / "fleet.ndjson"
    os.mkfifo(pipe)
    writer = subprocess.Popen(
        [sys.executable, "-c", f"open({str(pipe)!r}, 'wb').write({FLEET!r})"]
    )
    assert was_sound(push(tmp_path, "fleet.ndjson"))
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
def test_a_gzip_file_that_is_broken(
    content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "fleet.ndjson.gz").write_bytes(content)
    done = push(tmp_path, "fleet.ndjson.gz")
    assert done.returncode == 1
    assert "fleet.ndjson.gz, line " in done.stderr
    assert f": cannot read: {reason}" in done.stderr


def test_standard_input_that_is_closed(tmp_path: Path) -> None:
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
        "Error: standard input is closed",
    )
    (tmp_path / "fleet.ndjson").write_bytes(FLEET)
    assert without_stdin("fleet.ndjson", BULK_METADATA_API_KEY="") == (
        2,
        "Error: Set BULK_METADATA_API_KEY to the key.",
    )


def test_the_results_never_take_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.ndjson").write_bytes(FLEET)
    done = push(tmp_path, "fleet.ndjson", "--results", f"{tmp_path}/fleet.ndjson")
    assert done.returncode == 2
    assert "--results must not be the file that is pushed." in done.stderr
    assert (tmp_path / "fleet.ndjson").read_bytes() == FLEET


def test_a_message_holds_no_more_than_can_be_read(tmp_path: Path) -> None:
    identifier = "x" * 1_000_000
    (tmp_path / "fleet.csv").write_text(f"identifier,a:number\n{identifier},y\n")
    done = push(tmp_path, "fleet.csv", "--quiet")
    assert done.stderr.splitlines()[0] == (
        f'fleet.csv, line 2, device "{"x" * 100}...": '
        'column "a:number": "y" is not a number'
    )
    [problem] = push(tmp_path, "fleet.csv", "--json", "--quiet").stdout.splitlines()
    assert json.loads(problem)["identifier"] == identifier


@pytest.mark.parametrize("check", ["--check", "--no-check"])
def test_what_is_not_utf_8_can_be_shown(check: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_bytes(b"identifier,n:number\nSN-1\xe9,\xe9\n")
    done = push(tmp_path, "fleet.csv", check, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0]) == {
        "problem": "not UTF-8",
        "line": 2,
        "identifier": "",
    }


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert push(tmp_path, "fleet.ndjson").returncode == 2
    assert push(tmp_path, ".").returncode == 2


def test_a_check_can_be_stopped(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(FLEET)
    source = Source(str(path))
    journal = Journal(tmp_path / "journal", {}, resume=False)
    stop = threading.Event()
    stop.set()
    with source.open() as file:
        chunks = read(file, "ndjson", 10_000_000)
        with pytest.raises(Stopped):
            check(source, chunks, journal, Display("fleet.ndjson"), stop)
    # It is as if it had not begun.
    assert not journal.is_checked
    assert journal.counts() == {}
    journal.close(delete=True)
