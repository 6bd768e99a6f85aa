"""Files as the client reads them."""

import io

from bulk_metadata.files.device import Device
from bulk_metadata.files.reader import read

LIMIT = 10 * 1024 * 1024


def read_all(
    content: bytes | str, file_format: str, limit: int = LIMIT
) -> tuple[list[Device], list[tuple[int, str, str]]]:
    """Return the devices of a file, and of its problems line, identifier and reason."""
    data = content.encode() if isinstance(content, str) else content
    devices, problems = [], []
    for chunk in read(io.BytesIO(data), file_format, limit):
        devices += chunk.devices
        problems += [problem[1:] for problem in chunk.problems]
    return devices, problems


def texts(content: bytes | str, file_format: str) -> dict[str, str]:
    """Return the metadata of each device of a file in which all is right."""
    devices, problems = read_all(content, file_format)
    assert problems == []
    return {device.identifier: device.document.decode() for device in devices}


def problems(content: bytes | str, file_format: str) -> list[tuple[int, str, str]]:
    """Return line, identifier and reason of all that is wrong."""
    return read_all(content, file_format)[1]
