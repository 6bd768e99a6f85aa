"""The installed package: the commands of the client without server dependencies."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support.service import ROOT, Service

SOURCES = ["pyproject.toml", "README.md", "LICENSE", "app.py", "wsgi.py", "schema.sql"]


def run(*command: str | Path, **variables: str) -> str:
    """Return the output of a command that must succeed."""
    done = subprocess.run(
        command,
        cwd="/",
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow(reason="pip builds and installs the package")
def test_installed_client_uploads_without_server_dependencies(
    service: Service, acme: Organization, tmp_path: Path
) -> None:
    """Build from a copy, because pip writes to the source directory."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "bulk_metadata", source / "bulk_metadata")
    shutil.copytree(ROOT / "tests" / "support", source / "tests" / "support")
    for path in [*map(ROOT.joinpath, SOURCES), *ROOT.glob("requirements*.txt")]:
        shutil.copy(path, source)
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    command = python.with_name("bulk-metadata")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    pip += ["--python", str(python)]
    run(*pip, "install", "--no-compile", source)

    pins = (ROOT / "requirements-client.txt").read_text()
    expected = set(re.findall(r"^([\w-]+)==", pins, re.MULTILINE)) | {"bulk-metadata"}
    listed = run(*pip, "list", "--format", "freeze")
    installed = set(re.findall(r"^([\w-]+)[= ]", listed.lower(), re.MULTILINE))
    assert installed == expected
    [packages] = (tmp_path / "venv").glob("lib/python*/site-packages")
    assert (packages / "bulk_metadata" / "api" / "openapi.json").exists()
    assert not [name for name in ("app.py", "tests") if (packages / name).exists()]

    for client in ([command], [python, "-m", "bulk_metadata.client"]):
        assert "push" in run(*client, "--help")
    acme.insert("SN-1")
    file = tmp_path / "fleet.ndjson"
    file.write_text('{"identifier": "SN-1", "metadata": {"a": 1}}\n')
    url = f"http://127.0.0.1:{service.port}"
    run(command, "check", file)
    run(command, "push", file, "--url", url, BULK_METADATA_API_KEY=acme.key)
    assert acme.metadata() == {"SN-1": {"a": 1}}

    completion = run(
        command,
        _BULK_METADATA_COMPLETE="bash_complete",
        COMP_WORDS="bulk-metadata pu",
        COMP_CWORD="1",
    )
    assert completion == "plain,push\n"
