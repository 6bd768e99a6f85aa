"""The client in a forked process."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bulk_metadata.client.cli import main


def run(
    arguments: Sequence[str],
    directory: Path,
    environment: dict[str, str],
    out: Path,
    err: Path,
) -> None:
    """Run the client like a command, with its output in two files, and exit."""
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with path.open("wb") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["bulk-metadata", *arguments]
    main("python -m bulk_metadata.client")
