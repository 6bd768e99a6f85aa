"""Progress on standard error: a bar on a terminal, or a line every few seconds."""

import os
import sys
import time
from contextlib import AbstractContextManager

import click

from bulk_metadata.client.report import Statistics
from bulk_metadata.files.device import Problem, ProblemList

# Seconds between two lines.
LINE_INTERVAL = 5

# Seconds. A retry delay of this length is announced.
LONG_DELAY = 5


class Display(AbstractContextManager["Display"]):
    """The output of a run. This class prints messages; its subclasses add progress."""

    def __init__(self, name: str, *, as_json: bool = False) -> None:
        """``name`` is the name of the file. With ``as_json``, problems are printed to
        standard output."""
        self.statistics = Statistics()
        self.problems = 0
        write_json = click.echo if as_json else None
        self._list = ProblemList(name, lambda text: self.message(text), write_json)

    def __exit__(self, *_: object) -> None:
        """Restore the terminal."""

    def restore(self) -> None:
        """Restore the terminal without a lock that another thread may hold."""

    def begin(self, phase: str, unit: str, total: int | None, done: int = 0) -> None:
        """Begin a phase of ``total`` units, of which ``done`` are complete."""

    def update(self, done: int) -> None:
        """Set the number of completed units of the phase."""

    def message(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def log(self, text: str) -> None:
        """Print a line for a log file."""

    def delay(self, seconds: float, reason: str) -> None:
        """Count a retry after ``seconds``."""
        self.statistics.add_retry(reason)

    def problem(self, problem: Problem) -> None:
        """Print a problem, unless many have the same fix."""
        self.problems += 1
        self._list.add(problem)

    def finish_problems(self) -> None:
        """Print the number of problems that were not listed."""
        self._list.finish()


class Lines(Display):
    """Progress as lines, for log files."""

    _announced = 0.0

    def begin(self, phase: str, unit: str, total: int | None, done: int = 0) -> None:
        """Print the name of the phase."""
        self._unit, self._total, self._first = unit, total, done
        self._start = self._last = time.monotonic()
        self.message(f"{phase} ...")

    def log(self, text: str) -> None:
        """Print a line for a log file."""
        self.message(text)

    def update(self, done: int) -> None:
        """Print a line every LINE_INTERVAL seconds."""
        now = time.monotonic()
        if now - self._last < LINE_INTERVAL:
            return
        self._last = now
        speed = (done - self._first) / (now - self._start)
        count = f"{done:,} of {self._total:,}" if self._total else f"{done:,}"
        parts = [f"{count} {self._unit}", f"{speed:,.0f} per second"]
        if self._total and speed:
            parts.append(f"{(self._total - done) / speed:,.0f} s left")
        self.message("; ".join(filter(None, [", ".join(parts), str(self.statistics)])))

    def delay(self, seconds: float, reason: str) -> None:
        """Count a retry, and announce the first of several concurrent long delays."""
        super().delay(seconds, reason)
        end = time.monotonic() + seconds
        if end > self._announced + LONG_DELAY and seconds > LONG_DELAY:
            self._announced = end
            self.message(f"Waiting {seconds:,.0f} s before the next attempt: {reason}")


def make_display(name: str, *, quiet: bool, as_json: bool) -> Display:
    """Return a display for a terminal, for a log file, or without progress."""
    if quiet:
        return Display(name, as_json=as_json)
    if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", ""):
        from bulk_metadata.client.bar import Bar

        return Bar(name, as_json=as_json)
    return Lines(name, as_json=as_json)
