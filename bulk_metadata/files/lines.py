"""Lines of text, each held in memory, so none may be of any length."""

import codecs
from collections.abc import Iterator
from typing import BinaryIO

from bulk_metadata.files.device import FileError

# A quote that is never closed must not read in the whole file. No device can be longer
# by default: the API takes bodies of as many bytes.
MAX_LINE_BYTES = 10 * 1024 * 1024

# What Excel's "Unicode text" begins with.
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

NOT_UTF8 = "not UTF-8"


def read_lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines of ``file``, with their ends, without a byte order mark.

    Bytes that are not UTF-8 become surrogates, which no encoder takes: so a line that
    has them is that line's problem. Raises FileError for a line that is too long.
    """
    encoding = "utf-8-sig"
    line = 1
    while raw := file.readline(MAX_LINE_BYTES + 1):
        if len(raw) > MAX_LINE_BYTES:
            raise FileError(line, f"longer than {MAX_LINE_BYTES} bytes")
        if line == 1:
            refuse_utf16(raw)
        yield raw.decode(encoding, "surrogateescape")
        encoding = "utf-8"
        line += 1


def refuse_utf16(start: bytes) -> None:
    """Raise FileError if a file that begins with ``start`` is UTF-16."""
    if start.startswith(UTF16_MARKS):
        raise FileError(1, "UTF-16, where UTF-8 is needed")
