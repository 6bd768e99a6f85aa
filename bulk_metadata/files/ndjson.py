"""NDJSON: one device per line, ``{"identifier": ..., "metadata": {...}}``."""

from collections.abc import Iterable, Iterator

from bulk_metadata.core.json_text import (
    MEMBERS,
    Decoder,
    InvalidJsonError,
    JsonText,
    Struct,
    UnexpectedTypeError,
)
from bulk_metadata.core.text import shorten
from bulk_metadata.files import advice
from bulk_metadata.files.device import Device, DeviceError, Problem
from bulk_metadata.files.source import encoding_error


class JsonDevice(Struct, forbid_unknown_fields=True, gc=False):
    """A device as a JSON object."""

    identifier: str
    metadata: JsonText = JsonText(b"")


DEVICE = Decoder(JsonDevice)
MEMBER_NAMES = JsonDevice.__struct_fields__


def read_ndjson(lines: Iterable[str], first_line: int) -> Iterator[Device | Problem]:
    """Yield the device in each line that is not blank."""
    number = 1
    for line, text in enumerate(lines, first_line):
        try:
            found = DEVICE.decode(text)
            identifier, document = found.identifier.strip(), bytes(found.metadata)
            yield Device(number, line, identifier, document)
        except (InvalidJsonError, UnicodeEncodeError, RecursionError):
            if not text.strip():
                continue
            yield parse_device(number, line, text)
        number += 1


def parse_device(number: int, line: int, text: str) -> Device | Problem:
    """Return the device in the JSON object ``text``."""
    try:
        found = DEVICE.decode(text)
        identifier, document = found.identifier.strip(), bytes(found.metadata)
        return Device(number, line, identifier, document)
    except UnicodeEncodeError:
        error = encoding_error(text)
    except RecursionError:
        reason = "the metadata has too many levels of nesting"
        error = DeviceError(reason, advice.NESTING)
    except InvalidJsonError:
        error = _explain(text.strip())
    return Problem(number, line, "", error.reason, error.fix)


def _explain(text: str) -> DeviceError:
    """Return the error of a JSON text that is not a device."""
    try:
        members = MEMBERS.decode(text)
    except UnexpectedTypeError:
        reason = f'expected a JSON object, got "{shorten(text)}"'
        return DeviceError(reason, advice.JSON_DEVICE)
    except InvalidJsonError:
        return DeviceError(f'"{shorten(text)}" is not valid JSON', advice.JSON_LINE)
    if "identifier" not in members:
        return DeviceError('the member "identifier" is missing', advice.JSON_DEVICE)
    identifier = bytes(members["identifier"]).decode()
    if not identifier.startswith('"'):
        reason = f'the identifier must be a string, got "{shorten(identifier)}"'
        return DeviceError(reason, advice.JSON_TEXT)
    unknown = next((name for name in members if name not in MEMBER_NAMES), "")
    reason = f'the member "{shorten(unknown)}" is unknown'
    return DeviceError(reason, advice.JSON_DEVICE)
