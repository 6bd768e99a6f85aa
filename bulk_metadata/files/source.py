"""What is pushed: a file or standard input, read as often as needed."""

import gzip
import hashlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

# How standard input is called.
STDIN = "-"

# RFC 1952, 2.3.1: whatever its name says, this is how a gzip file begins.
GZIP_MAGIC = b"\x1f\x8b"

PIECE_BYTES = 1024 * 1024


class Source:
    """A file, kept open so that it stays the same one if another takes its name."""

    def __init__(self, path: str) -> None:
        """Open the file, STDIN or another. Raises OSError."""
        raw = _open(path)
        self._raw = raw if raw.seekable() else _spool(raw)
        self._raw.seek(0)
        self._is_gzip = self._raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        self._first_state = self._state()
        #: Its length in bytes, as it is stored.
        self.size = self._raw.seek(0, io.SEEK_END)

    def _state(self) -> tuple[int, int]:
        status = os.fstat(self._raw.fileno())
        return status.st_size, status.st_mtime_ns

    @property
    def has_changed(self) -> bool:
        """Whether anybody has written to it since it was opened."""
        return self._state() != self._first_state

    @property
    def position(self) -> int:
        """How many of its bytes have been read this time."""
        return self._raw.tell()

    def digest(self, on_piece: Callable[[], None]) -> str:
        """Return the SHA-256 of its bytes, in hexadecimal; call ``on_piece`` now and
        then."""
        self._raw.seek(0)
        digest = hashlib.sha256()
        while piece := self._raw.read(PIECE_BYTES):
            digest.update(piece)
            on_piece()
        return digest.hexdigest()

    def open(self) -> BinaryIO:
        """Return its content, from the beginning."""
        self._raw.seek(0)
        if self._is_gzip:
            # Its lines are three times as fast with a buffer written in C.
            return io.BufferedReader(gzip.GzipFile(fileobj=self._raw))
        return self._raw


def _open(path: str) -> BinaryIO:
    if path != STDIN:
        return Path(path).open("rb")
    if sys.stdin is None:  # as Python has it where there is none
        raise OSError("standard input is closed")
    return sys.stdin.buffer


def _spool(pipe: BinaryIO) -> BinaryIO:
    """Return a file with what comes from ``pipe``, since it is read more than once. On
    disk: it may be larger than the memory."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process runs
    shutil.copyfileobj(pipe, spool)
    return cast(BinaryIO, spool)
