"""Waits for events, with a timeout that only a failing test reaches."""

import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil

# Seconds. An event that takes longer on a busy machine is a failure.
TIMEOUT = 60


def wait_until(
    condition: Callable[[], object],
    event: str = "the condition",
    process: Popen[Any] | None = None,
) -> None:
    """Return when ``condition`` is true. Fail after a timeout, or if ``process``, which
    has to cause the event, exits."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, f"timed out waiting for {event}"
        assert process is None or process.poll() is None, f"exited before {event}"
        time.sleep(0.01)


def suspend(*processes: psutil.Process) -> None:
    """Suspend processes, and return when all their threads have stopped."""
    for process in processes:
        process.suspend()
    threads = [
        thread
        for process in processes
        for thread in Path(f"/proc/{process.pid}/task").glob("*/status")
    ]
    # Z: the process had exited.
    stopped = re.compile(r"^State:\s+[TZ]", re.MULTILINE)
    wait_until(
        lambda: all(stopped.search(thread.read_text()) for thread in threads),
        "all threads to stop",
    )


def wait_for_port(port: int, process: Popen[Any] | None = None) -> None:
    """Return when a server accepts connections on ``port`` of 127.0.0.1."""

    def accepts() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
        except OSError:
            return False
        return True

    wait_until(accepts, f"a server on port {port}", process)


def free_port() -> int:
    """Return an unused port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
