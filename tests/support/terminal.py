"""A terminal for a command."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Cursor movements and colors.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

SHOW_CURSOR = "\x1b[?25h"
HIDE_CURSOR = "\x1b[?25l"


class Terminal:
    """The output of a process, and its input."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.written = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Read the output until it contains ``text``."""
        while text not in self.written:
            assert self._read(60), self.written

    def end(self) -> int:
        """Read the output to its end. Return the exit code."""
        while self._read(60):
            pass
        return self.process.wait(60)

    @property
    def lines(self) -> list[str]:
        """The output without control sequences, a line for each frame of a bar."""
        plain = CONTROL.sub("", self.written.replace("\x1b[2K", "\n"))
        return [line for line in re.split(r"[\r\n]+", plain) if line]

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:
            piece = b""  # Linux reports the end of the output as an error.
        self.written += piece.decode()
        return bool(piece)


@contextmanager
def run_in_terminal(
    command: Sequence[str], directory: Path, environment: dict[str, str], columns: int
) -> Iterator[Terminal]:
    """Run ``command`` in a terminal with this number of columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # A worker of pytest-xdist has the size of the terminal in its environment.
    size = {"COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(
        command,
        cwd=directory,
        env={"TERM": "xterm-256color", **environment, **size},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
