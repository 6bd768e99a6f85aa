"""Signal handling: the first SIGINT, SIGTERM or SIGHUP requests a graceful stop, the
second exits immediately."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """The run was stopped before the next request."""


class Stop(threading.Event):
    """An event that is set when the run must stop. Requests in flight complete."""

    def __init__(self) -> None:
        super().__init__()
        #: The last signal, or 0.
        self.signal = 0
        self._raises = False

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let the first signal raise StoppedError inside, where the main thread waits
        for a person or a pipe."""
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def handle_signals(
        self, message: Callable[[str], None], restore: Callable[[], None]
    ) -> None:
        """Install the handlers. ``message`` prints a line, and ``restore`` resets the
        terminal before an immediate exit."""

        def stop() -> None:
            message(
                "Stopping after the requests in flight. "
                "Press Ctrl-C again to stop immediately."
            )

        def exit_immediately() -> None:
            restore()
            # A resumed run sends devices again whose result is not in the journal.
            os._exit(128 + self.signal)

        def handle(number: int, _: object) -> None:
            is_first = not self.signal
            self.signal = number
            self.set()
            if is_first and self._raises:
                raise StoppedError
            # In a thread, because the interrupted code may hold a lock of the output.
            threading.Thread(target=stop if is_first else exit_immediately).start()

        for number in NUMBERS:
            # nohup ignores SIGHUP.
            if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN):
                signal.signal(number, handle)
