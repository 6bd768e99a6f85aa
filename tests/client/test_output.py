"""Output: secrets, broken streams, API key files, and the JSON summary."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bulk_metadata.client import cli
from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, numbered
from tests.support.fault_proxy import Fault, FaultProxy, page, response
from tests.support.service import ROOT

DEVICES = numbered(3)


@pytest.fixture(autouse=True)
def fleet(pusher: Client, acme: Organization) -> None:
    pusher.write(DEVICES)
    acme.insert(*DEVICES)


def echo_in_device_id(key: str) -> Fault:
    return faults.altered(
        lambda body: {
            **body,
            "results": [{**each, "deviceId": key} for each in body["results"]],
        }
    )


# Responses that contain the API key.
ECHOES: dict[str, Callable[[str], Fault]] = {
    "message": lambda key: response(403, f"the key {key} is not allowed"),
    "upper case": lambda key: response(500, f"the key {key.upper()} is not allowed"),
    "rejected device": lambda key: response(400, f"no {key}"),
    "long title": lambda key: page(502, "x" * 480 + key),
    "escaped title": lambda key: page(200, key.replace("t", "&#116;")),
    "location": lambda key: response(301, b"", Location=f"https://u:pass@host/{key}"),
    "text": lambda key: response(404, key.encode(), Content_Type="text/plain"),
    "header": lambda key: response(429, b"", Retry_After=key),
    "device id": echo_in_device_id,
}


@pytest.mark.parametrize(
    ("echo", "option"),
    [
        *((echo, "--json") for echo in ECHOES),
        ("text", "--quiet"),
        ("text", "--dry-run"),
    ],
)
def test_echoed_api_key_is_masked(
    pusher: Client, proxy: FaultProxy, echo: str, option: str
) -> None:
    fault = ECHOES[echo](pusher.key)
    proxy.choose = lambda request: fault
    done = pusher.push("--attempts=1", option)
    assert done.code == 1
    written = "".join(
        path.read_bytes().decode(errors="replace")
        for path in pusher.directory.iterdir()
    )
    for text in (done.out, done.err, written):
        assert pusher.key[:20] not in text.lower()
        assert "u:pass" not in text


def test_api_key_as_argument_is_masked(pusher: Client) -> None:
    done = pusher.push(pusher.key)
    assert done.code == 2
    assert "***" in done.err
    assert pusher.key not in done.err


REDIRECTIONS = (
    *("> /dev/full", "2> /dev/full", "> /dev/full 2>&1", ">&-", "2>&-", ">&- 2>&-"),
    *("<&- >&- 2>&-", "| head -0", "2>&1 | head -0", "2> >(head -0)"),
)


@pytest.mark.parametrize(
    ("redirection", "options"),
    [
        *((redirection, ()) for redirection in REDIRECTIONS),
        # Prints problems to standard output.
        *((redirection, ["--json"]) for redirection in ("> /dev/full", ">&-")),
    ],
)
def test_broken_output_changes_no_result(
    pusher: Client, redirection: str, options: Sequence[str]
) -> None:
    (pusher.directory / "fleet.ndjson").write_text(
        (pusher.directory / "fleet.ndjson").read_text()
        + '{"identifier": "ünïcode 😀", "metadata": {}}\nx\n'
    )
    pusher.variables = {"PYTHONIOENCODING": "cp1252"}
    script = f'"$@" {redirection}\nexit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script, "bash", *pusher.command("--no-check", *options)],
        cwd=pusher.directory,
        env=pusher.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"Exception" not in done.stderr
    statuses = [row[3] for row in pusher.results()]
    assert statuses == ["updated", "updated", "updated", "not_found", "invalid"]
    assert pusher.results()[3][1] == "ünïcode 😀"


@pytest.mark.parametrize(
    ("options", "code", "failure"),
    [
        (["--resume"], 1, "There is no run to resume: "),
        (["--results=missing/out.csv"], 1, "Cannot write missing/out.csv.journal: "),
        (["--results=out.txt"], 2, "--results must end in one of: "),
        (["--batch-size=0"], 2, "Invalid value for '--batch-size': "),
        (["--unknown"], 2, "No such option '--unknown'"),
    ],
)
def test_json_summary_follows_error(
    pusher: Client, options: list[str], code: int, failure: str
) -> None:
    done = pusher.push("--json", *options)
    assert done.code == code
    assert done.summary["failure"].startswith(failure)
    assert done.summary["devices"] == 0
    assert failure in done.err


@pytest.mark.parametrize(
    ("file", "options", "member", "text"),
    [
        ("\udcf6.ndjson", [], "results", "\\udcf6.ndjson.results.csv"),
        ("fleet.ndjson", ["--results=\udcf6.csv"], "results", "\\udcf6.csv"),
        ("fleet.ndjson", ["--results=\udcf6/a.csv"], "failure", "write \\udcf6/a.csv"),
    ],
)
def test_invalid_bytes_of_path_are_escaped_in_summary(
    pusher: Client, file: str, options: list[str], member: str, text: str
) -> None:
    pusher.write(DEVICES, file)
    done = pusher.push("--json", *options, file=file)
    assert text in done.summary[member]


def test_internal_error_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], pusher: Client
) -> None:
    """No known input causes an internal error."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(sys, "argv", ["bulk-metadata", *pusher.command()[3:]])
    monkeypatch.setenv("BULK_METADATA_API_KEY", "tlm_x")
    monkeypatch.setattr(cli, "read_key", fail)
    monkeypatch.chdir(pusher.directory)
    stdout, stderr = sys.stdout, sys.stderr
    try:
        with pytest.raises(SystemExit, match="1"):
            cli.main()
    finally:
        sys.stdout, sys.stderr = stdout, stderr
    error = capfd.readouterr().err
    assert error.startswith("Error: internal error: KeyError('x') (fail, line ")


def test_failure_reason_is_on_standard_error(pusher: Client, proxy: FaultProxy) -> None:
    proxy.choose = lambda request: response(401, "Invalid or missing API key")
    for options in ((), ("--quiet",), ("--json",)):
        done = pusher.push(*options)
        assert done.code == 1
        assert "\nError: 401: Invalid or missing API key.\n" in f"\n{done.err}"


def test_key_file_overrides_environment(pusher: Client, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(pusher.key)
    pusher.key = "tlm_unused"
    assert pusher.push("--key-file=key").code == 0


@pytest.mark.parametrize(
    "content",
    [
        "tlm_x",
        "\ufeff tlm_x\r\n\r\n",
        "x-api-key: tlm_x\n",
        "\ufeffx-api-key: tlm_x\r\n",
        "Accept: */*\r\nX-API-Key:tlm_x\r\n",
    ],
)
def test_api_key_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("BULK_METADATA_API_KEY", content)
    assert cli.read_key(None, is_piped=False) == "tlm_x"
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "key").write_bytes(content.encode(encoding))
        assert cli.read_key(tmp_path / "key", is_piped=False) == "tlm_x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n", "key contains no API key."),
        ("tlm_a tlm_b", "The API key contains invalid characters."),
    ],
)
def test_invalid_key_file_is_rejected(
    pusher: Client, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "key").write_text(content)
    done = pusher.push("--key-file=key")
    assert done.code == 2
    assert done.err.endswith(f"Error: {message}\n")


def test_check_needs_no_key_and_no_url(tmp_path: Path) -> None:
    def check(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bulk_metadata.client", "check", *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
        )

    line = '{"identifier": "SN-1", "metadata": {}}\n'
    (tmp_path / "fleet.ndjson").write_text(line)
    done = check("fleet.ndjson")
    assert (done.returncode, done.stdout) == (
        0,
        "fleet.ndjson: 1 device, no errors\n",
    )
    assert check("fleet.ndjson", "--quiet").stdout == ""
    (tmp_path / "fleet.ndjson").write_text(line * 2)
    done = check("fleet.ndjson", "--json")
    assert done.returncode == 1
    problem, summary = map(json.loads, done.stdout.splitlines())
    assert problem["problem"].startswith("the same identifier as in line 1.")
    assert summary["summary"]["failure"] == "1 error. Nothing was sent"
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.ndjson"]


def test_version_is_printed(pusher: Client) -> None:
    command = pusher.command()[:3]
    done = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"1.3.0\n")


def test_help_lists_exit_codes(pusher: Client) -> None:
    text = pusher.push("--help").out
    for code in (0, 1, 2, 3, 129, 130, 143):
        assert f"\n    {code} " in text
