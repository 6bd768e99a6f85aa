"""The docs of the fleet client match the client."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support.service import ROOT, Service
from tests.system.conftest import PROGRAMS, client_script

README = (ROOT / "README.md").read_text()
FLEET = (ROOT / "docs" / "fleet.md").read_text()
FILES = (ROOT / "docs" / "device-files.md").read_text()


def command(document: str) -> str:
    """Return the first upload command of a document."""
    [found, *_] = re.findall(
        r"```sh\n(export BULK_METADATA_.+?)```", document, re.DOTALL
    )
    return str(found)


def push(
    script: str, directory: Path, service: Service, acme: Organization
) -> subprocess.CompletedProcess[str]:
    """Run ``script`` with the API key and the address of a test."""
    return subprocess.run(
        ["bash", "-eu", "-c", client_script(script, acme.key, service.port)],
        cwd=directory,
        env={**os.environ, "PATH": PROGRAMS, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_readme_command_uploads_example_table(
    service: Service, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("007", "SN-B200")
    [example] = re.findall(r"```\n(identifier;.+?)```", FILES, re.DOTALL)
    (tmp_path / "fleet.csv").write_text(example)
    done = push(command(README), tmp_path, service, acme)
    assert done.returncode == 0, done.stderr
    assert acme.metadata() == {
        "007": {
            "status": "active",
            "site": {"city": "Gera"},
            "battery": 98.60,
            "enabled": True,
            "tags": ["outdoor", "solar"],
        },
        "SN-B200": {"status": "maintenance", "battery": 12},
    }
    assert '"battery": 98.60' in acme.texts()["007"]
    ids = acme.ids()
    assert (tmp_path / "fleet.csv.results.csv").read_text() == (
        "line,identifier,deviceId,status\n"
        f"2,007,{ids['007']},updated\n"
        f"3,SN-B200,{ids['SN-B200']},updated\n"
    )


def test_fleet_page_command_uploads_ndjson(
    service: Service, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-1")
    line = '{"identifier": "SN-1", "metadata": {"a": 1.0}}\n'
    (tmp_path / "fleet.ndjson").write_text(line)
    done = push(command(FLEET), tmp_path, service, acme)
    assert done.returncode == 0, done.stderr
    assert acme.texts() == {"SN-1": '{"a": 1.0}'}


def test_options_are_documented() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "bulk_metadata.client", "push", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", shown)) - {"--help", "--check"}
    assert "--resume" in options
    # An option of pip.
    written = set(re.findall(r"--[a-z][a-z-]+", FLEET)) - {"--requirement", "--request"}
    assert written == options


@pytest.mark.parametrize("name", ["click", "msgspec"])
def test_service_and_client_pin_same_version(name: str) -> None:
    pins = [
        re.findall(rf"^{name}==\S+", (ROOT / file).read_text(), re.MULTILINE)
        for file in ("requirements.txt", "requirements-client.txt")
    ]
    assert len(pins[0]) == 1
    assert pins[0] == pins[1]
