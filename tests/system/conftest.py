"""The shell scripts in the docs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import BINARIES

# psql of the embedded server is the last choice.
PROGRAMS = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"], str(BINARIES)]
)


# More digits than a double has.
NUMBER = "12345678901234567890.123456789012345678901234567890"


def snippets(document: str, heading: str, language: str = "sh") -> list[str]:
    """Return the code blocks of a section."""
    section = document.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.+?)```", section, re.DOTALL)


def client_script(script: str, api_key: str, port: int) -> str:
    """Return a script that runs the client from this checkout, for a local service."""
    script = script.replace("=...", f"={api_key}", 1)
    script = re.sub(r"https?://\S+", f"http://127.0.0.1:{port}", script)
    return script.replace("bulk-metadata ", "python -m bulk_metadata.client ")


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a script in a temporary directory."""
    for program in ("curl", "jq", "psql"):
        if not shutil.which(program, path=PROGRAMS):
            pytest.skip(f"scripts of the docs. To test them: apt-get install {program}")

    def run(*script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(script)],
            cwd=tmp_path,
            env={**os.environ, "PATH": PROGRAMS, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
