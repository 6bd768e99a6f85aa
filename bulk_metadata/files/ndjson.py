"""NDJSON: a line for each device, {"identifier": ..., "metadata": {...}}."""

from collections.abc import Iterator
from itertools import count
from typing import BinaryIO

import msgspec

from bulk_metadata.core.json_text import JsonText
from bulk_metadata.files.device import Device, Problem
from bulk_metadata.files.lines import NOT_UTF8, read_lines


class Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line. Both members must be there: metadata that is missing would be wiped."""

    identifier: str
    metadata: JsonText


LINE = msgspec.json.Decoder(Line)


def read_ndjson(file: BinaryIO) -> Iterator[Device | Problem]:
    """Yield what each line says; blank ones are passed over. Raises FileError."""
    numbers = count(1)
    for line, text in enumerate(read_lines(file), 1):
        reason: object
        try:
            found = LINE.decode(text)
        except msgspec.DecodeError as error:
            if not text.strip():
                continue
            reason = error
        except RecursionError:
            reason = "nested too deeply"
        except UnicodeEncodeError:
            reason = NOT_UTF8
        else:
            identifier = found.identifier.strip()
            yield Device(next(numbers), line, identifier, bytes(found.metadata))
            continue
        yield Problem(next(numbers), line, "", str(reason))
