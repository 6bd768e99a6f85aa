"""Device files as the reader returns them."""

import tempfile
from pathlib import Path
from typing import Any

from bulk_metadata.files import Options
from bulk_metadata.files.device import Device, FileError
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import Source

LIMIT = 10 * 1024 * 1024

# Line, identifier and reason.
Found = tuple[int, str, str]


def read_path(
    path: Path, file_format: str | None = None, **options: Any
) -> tuple[list[Device], list[Found]]:
    """Return the devices in a file, and its errors."""
    devices, problems = [], []
    with Source(str(path)) as source:
        try:
            options = {"max_bytes": LIMIT, **options}
            file = DeviceFile(source, Options(file_format, **options))
            for chunk in file.read():
                devices += chunk.devices
                problems += chunk.problems
        except FileError as error:
            problems.append(error.as_problem())
    return devices, [(p.line, p.identifier, p.reason) for p in problems]


def read_all(
    content: bytes | str, file_format: str, **options: Any
) -> tuple[list[Device], list[Found]]:
    """Return the devices in a file with this content, and its errors."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        return read_path(Path(file.name), file_format, **options)


def texts(content: bytes | str, file_format: str, **options: Any) -> dict[str, str]:
    """Return the metadata of each device in a file without errors."""
    devices, problems = read_all(content, file_format, **options)
    assert problems == []
    return {device.identifier: device.document.decode() for device in devices}


def problems(content: bytes | str, file_format: str, **options: Any) -> list[Found]:
    """Return the errors of a file."""
    return read_all(content, file_format, **options)[1]
