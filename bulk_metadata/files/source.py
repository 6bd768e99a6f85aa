"""The input: a file or standard input, as bytes and as lines of text."""

import codecs
import gzip
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from bulk_metadata.files import advice
from bulk_metadata.files.device import DeviceError, FileError

# The path of standard input.
STDIN = "-"

# RFC 1952, 2.3.1.
GZIP_MAGIC = b"\x1f\x8b"

# Bytes of the content from which file type, encoding and separator are detected.
HEAD_BYTES = 65_536

DIGEST_BYTES = 1_048_576

# Characters of a line, a cell or a JSON value. No device is longer by default, since
# the service accepts bodies of 10 MiB. Each is held in memory, so a missing line break
# or quote must not load the whole file.
MAX_LENGTH = 10_485_760

# A byte that is invalid in the encoding becomes a surrogate, U+DC00 + byte, which no
# text file can contain. So an invalid byte is an error of its line, not of the file.
INVALID_BYTE = re.compile("[\udc00-\udcff]")
KEEP_INVALID = "bulk-metadata-keep-invalid"

BYTE_ORDER_MARK = "\ufeff"

# Characters of the text around an invalid byte in a message.
CONTEXT = 20

# gzip reports damaged data with all of these, and OSError also means a failed read.
READ_ERRORS = (OSError, EOFError, zlib.error)


class Source:
    """An open file, which can be read even if another file replaces it."""

    def __init__(self, path: str) -> None:
        """Open the file, or standard input if ``path`` is STDIN. Raises OSError."""
        self.name = "standard input" if path == STDIN else path
        raw = _open(path)
        self._raw = raw if raw.seekable() else _spool(raw)
        self._raw.seek(0)
        self._is_gzip = self._raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self._first_state = self._state()
        #: Size in bytes, compressed if the file is.
        self.size = self._raw.seek(0, io.SEEK_END)

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._raw.close()

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._raw.fileno())
        return status.st_size, status.st_mtime_ns

    @property
    def has_changed(self) -> bool:
        """Whether a program has written to the file since it was opened."""
        return self._state() != self._first_state

    @property
    def position(self) -> int:
        """Number of bytes of the file that were read since ``open``."""
        return os.lseek(self._raw.fileno(), 0, os.SEEK_CUR)

    def digest(self, on_chunk: Callable[[], None]) -> str:
        """Return the SHA-256 digest of the file in hexadecimal, and call ``on_chunk``
        after each chunk."""
        self._raw.seek(0)
        digest = hashlib.sha256()
        while chunk := self._raw.read(DIGEST_BYTES):
            digest.update(chunk)
            on_chunk()
        return digest.hexdigest()

    def open(self) -> BinaryIO:
        """Return the decompressed content, from the beginning. A file that was returned
        earlier can no longer be read."""
        descriptor = self._raw.fileno()
        os.lseek(descriptor, 0, os.SEEK_SET)
        file = open(descriptor, "rb", closefd=False)  # noqa: SIM115  # returned
        if self._is_gzip:
            # A buffer in C reads lines three times as fast.
            return io.BufferedReader(gzip.GzipFile(fileobj=file))
        return file

    def head(self) -> bytes:
        """Return the first HEAD_BYTES of the content. Raises FileError."""
        try:
            return self.open().read(HEAD_BYTES)
        except READ_ERRORS as error:
            raise read_error(0, error) from None


def read_error(line: int, error: Exception) -> FileError:
    """Return the message for one of READ_ERRORS."""
    if isinstance(error, OSError) and error.errno:
        reason = f"the file cannot be read: {error.strerror}"
        return FileError(line, reason, advice.READ_AGAIN)
    reason = "the gzip file is damaged or incomplete"
    return FileError(line, reason, advice.DAMAGED)


def _open(path: str) -> BinaryIO:
    if path != STDIN:
        return Path(path).open("rb")
    if sys.stdin is None:  # Python sets it to None if standard input is closed.
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def _spool(pipe: BinaryIO) -> BinaryIO:
    """Return a temporary file with the content of ``pipe``, which is read more than
    once and may be larger than the memory."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115  # open until the process exits
    shutil.copyfileobj(pipe, spool)
    spool.flush()
    pipe.close()
    return cast(BinaryIO, spool)


def _keep_invalid(error: Any) -> tuple[str, int]:
    invalid = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) for byte in invalid), error.end


codecs.register_error(KEEP_INVALID, _keep_invalid)


def open_text(file: BinaryIO, encoding: str) -> TextIO:
    """Return the text of ``file``, with its line ends."""
    return io.TextIOWrapper(file, encoding, KEEP_INVALID, newline="")


def read_lines(text: TextIO) -> Iterator[str]:
    r"""Yield lines with their ends, which are \n, \r\n or \r.

    A byte order mark is removed also within the file, which may have been joined from
    several files. Raises FileError if a line is too long.
    """
    line = 0
    while characters := text.readline(MAX_LENGTH + 1):
        line += 1
        if len(characters) > MAX_LENGTH:
            raise long_line(line)
        if characters[0] == BYTE_ORDER_MARK:
            characters = characters.lstrip(BYTE_ORDER_MARK)
        yield characters


def long_line(line: int) -> FileError:
    """Return the error of a line that is too long."""
    reason = f"the line has more than {MAX_LENGTH:,} characters"
    return FileError(line, reason, advice.LONG_LINE)


def encoding_error(text: str) -> DeviceError:
    """Return the error for ``text``, which contains an invalid byte."""
    start, byte = next((m.start(), m.group()) for m in INVALID_BYTE.finditer(text))
    excerpt = text[max(start - CONTEXT, 0) : start + CONTEXT].strip()
    return DeviceError(
        f'"{INVALID_BYTE.sub("?", excerpt)}" is not UTF-8 (or the encoding set with '
        f"--encoding): byte 0x{ord(byte) - 0xDC00:02X}",
        advice.ENCODING,
    )
