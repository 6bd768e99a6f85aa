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
from bulk_metadata.client.push import InvalidFileError, check
from bulk_metadata.client.signals import StoppedError
from bulk_metadata.files import Options
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import Source
from tests.conftest import Organization
from tests.support.client_runner import Client, Done
from tests.support.service import ROOT, Service

LINES = [f'{{"identifier": "SN-{number}", "metadata": {{}}}}' for number in range(5)]
FLEET = "".join(line + "\n" for line in LINES).encode()


NOT_A_NUMBER = (
    'column "n:number": expected a number, got "x". Use digits and a decimal point, '
    "without a thousands separator: 1234.5"
)


def push(
    directory: Path,
    file: str,
    *options: str,
    url: str = "http://127.0.0.1:1",
    key: str = "tlm_none",
    stdin: bytes | None = None,
) -> Done:
    """Run the client, by default with an unused port."""
    client = Client(directory, url, key)
    return client.push("--attempts=1", *options, file=file, stdin=stdin)


def is_valid(done: Done) -> bool:
    """Return whether the check found no problems, so that sending began."""
    return "Sending ..." in done.err


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
    done = push(tmp_path, "fleet.ndjson", url=url, key=acme.key)
    assert done.code == 1
    assert done.out == ""
    assert done.err.splitlines() == [
        "Reading ...",
        "Checking ...",
        'fleet.ndjson, line 6: "x" is not valid JSON. Write each device on one line, '
        "for example with: jq -c . FILE",
        *(
            f'fleet.ndjson, line {line}, device "{identifier}": the same identifier as '
            f"in line {first}. Keep one entry for each device."
            for line, identifier, first in [
                (7, "SN-1", 2),
                (8, "SN-3", 4),
                (9, "SN-3", 4),
            ]
        ),
        "Error: 4 errors. Nothing was sent.",
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
    done = push(tmp_path, "fleet.ndjson", "--no-check", url=url, key=acme.key)
    assert done.code == 1
    assert done.err.splitlines()[3:] == [
        'fleet.ndjson, line 2: "x" is not valid JSON. Write each device on one line, '
        "for example with: jq -c . FILE",
        'fleet.ndjson, line 3, device "SN-4": metadata must be a JSON object. '
        'Use a JSON object: {"status": "active"}',
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
    *problems, rest, end = done.err.splitlines()
    fix = "Keep one entry for each device."
    assert problems == [
        f'fleet.ndjson, line {count + number + 1}, device "SN-{number}": '
        f"the same identifier as in line {number + 1}. {fix}"
        for number in range(20)
    ]
    assert rest == f"fleet.ndjson: 49,980 further errors of the same kind. {fix}"
    assert end == "Error: 50,000 errors. Nothing was sent."


def test_problems_are_printed_as_json(tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text('identifier,n:number\n"a\xa0b",x\n')
    done = push(tmp_path, "fleet.csv", "--json", "--quiet")
    assert done.code == 1
    problem, summary = map(json.loads, done.out.splitlines())
    assert problem == {
        "problem": NOT_A_NUMBER,
        "line": 2,
        "identifier": "a\xa0b",
    }
    assert summary["summary"]["failure"] == "1 error. Nothing was sent"
    # Unprintable characters are escaped on a terminal.
    done = push(tmp_path, "fleet.csv", "--quiet")
    assert done.err.splitlines() == [
        f'fleet.csv, line 2, device "a\\xa0b": {NOT_A_NUMBER}',
        "Error: 1 error. Nothing was sent.",
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("header.csv", b"identifier,a\n"),
        ("none.json", b'{"devices": {}}'),
    ],
)
def test_file_without_devices_is_rejected(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    done = push(tmp_path, name)
    assert done.code == 1
    assert done.err.endswith("Error: The file contains no devices. Nothing was sent.\n")


def test_unknown_extension_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "fleet.txt").write_bytes(FLEET)
    done = push(tmp_path, "fleet.txt")
    assert done.code == 2
    assert (
        'Unknown file name extension ".txt". Set the format with --format.' in done.err
    )


@pytest.mark.parametrize("content", [FLEET, gzip.compress(FLEET, mtime=0)])
def test_standard_input_is_read(content: bytes, tmp_path: Path) -> None:
    assert is_valid(push(tmp_path, "-", "--format", "ndjson", stdin=content))
    done = push(tmp_path, "-", "--format", "ndjson", stdin=b"x\n")
    assert 'standard input, line 1: expected a JSON object, got "x"' in done.err
    assert push(tmp_path, "-", stdin=content).code == 2


def test_named_pipe_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "fleet.ndjson"
    os.mkfifo(pipe)
    writer = subprocess.Popen(
        [sys.executable, "-c", f"open({str(pipe)!r}, 'wb').write({FLEET!r})"]
    )
    assert is_valid(push(tmp_path, "fleet.ndjson"))
    assert writer.wait(60) == 0


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
        "Error: No API key. Set BULK_METADATA_API_KEY or use --key-file.",
    )


def test_results_never_replace_input_file(tmp_path: Path) -> None:
    (tmp_path / "fleet.ndjson").write_bytes(FLEET)
    done = push(tmp_path, "fleet.ndjson", "--results", f"{tmp_path}/fleet.ndjson")
    assert done.code == 2
    assert "--results must not be the file that is pushed." in done.err
    assert (tmp_path / "fleet.ndjson").read_bytes() == FLEET


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    assert push(tmp_path, "fleet.ndjson").code == 2
    assert push(tmp_path, ".").code == 2


def test_stopped_check_lists_no_devices(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(FLEET)
    journal = Journal(tmp_path / "journal", {}, resume=False)
    stop = threading.Event()
    stop.set()
    with Source(str(path)) as source:
        file = DeviceFile(source, Options())
        with pytest.raises(StoppedError):
            check(file, file.read(), journal, Display("fleet.ndjson"), stop)
    assert not journal.is_checked
    assert journal.counts() == {}
    journal.close(delete=True)


def test_file_changed_during_check_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    path.write_bytes(FLEET)
    journal = Journal(tmp_path / "journal", {}, resume=False)
    with Source(str(path)) as source:
        file = DeviceFile(source, Options())
        chunks = file.read()
        path.write_bytes(FLEET + b"\n")
        with pytest.raises(InvalidFileError, match="changed while it was read"):
            check(file, chunks, journal, Display("fleet.ndjson"), threading.Event())
    journal.close(delete=True)
