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

# The embedded server's psql is good enough where there is no other.
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


def runner(folder: Path) -> Run:
    """Return a function that runs a script in ``folder``."""
    for program in ("curl", "jq", "psql"):
        if not shutil.which(program, path=PROGRAMS):
            pytest.skip(f"{program} is not installed")

    def run(*script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(script)],
            cwd=folder,
            env={**os.environ, "PATH": PROGRAMS, **variables},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
