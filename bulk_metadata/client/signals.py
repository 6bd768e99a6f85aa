"""Ctrl-C, and SIGTERM: once to end in good order, twice to end at once."""

import os
import signal
import threading
from collections.abc import Callable


class Stopped(Exception):
    """The run is to end, and what was to be done next was not."""


class Stop(threading.Event):
    """Set when the run is to end. What is under way is waited for."""

    def __init__(self) -> None:
        super().__init__()
        #: The signal that set it, if one did.
        self.signal = 0

    def on_signals(self, say: Callable[[str], None], leave: Callable[[], None]) -> None:
        """Let Ctrl-C and SIGTERM set it, which ``say`` is told; ``leave`` is called
        before an end at once."""

        def end() -> None:
            self.set()
            say("Ending, once the calls under way are answered. Again: at once.")

        def end_at_once() -> None:
            leave()
            # The journal has what was answered: nothing is lost.
            os._exit(128 + self.signal)

        def handle(number: int, _: object) -> None:
            then = end_at_once if self.signal else end
            self.signal = number
            # Not here: the thread that was interrupted may hold a lock.
            threading.Thread(target=then).start()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handle)
