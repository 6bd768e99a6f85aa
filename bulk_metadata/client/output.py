"""Standard output and standard error: writes never fail, and API keys are masked."""

import os
import sys
from contextlib import suppress
from typing import TextIO, cast

from bulk_metadata.core.text import mask


class Output:
    """Standard output or standard error as a stream whose writes never fail.

    The exit code must not depend on whether the stream is closed, full, or able to
    encode a name.
    """

    def __init__(self, descriptor: int, stream: object) -> None:
        self._descriptor = descriptor
        self.encoding: str = getattr(stream, "encoding", "utf-8")

    def write(self, text: str | bytes) -> int:
        """Write ``text`` without a buffer, because a buffer is flushed at exit."""
        if isinstance(text, bytes):  # The shell completion of click writes bytes.
            text = text.decode()
        data = mask(text).encode(self.encoding, "backslashreplace")
        with suppress(OSError):
            while data:
                data = data[os.write(self._descriptor, data) :]
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return os.isatty(self._descriptor)


def protect_output() -> None:
    """Replace the standard streams with streams whose writes never fail."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file that is opened becomes the standard stream.
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = cast(TextIO, Output(1, sys.stdout))
    sys.stderr = cast(TextIO, Output(2, sys.stderr))
