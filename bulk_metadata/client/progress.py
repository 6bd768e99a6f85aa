"""Progress on standard error: a bar on a terminal, or a line every few seconds."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from typing import TextIO, cast

import click
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from bulk_metadata.client.report import Statistics
from bulk_metadata.core.text import mask
from bulk_metadata.files.device import Problem, ProblemList

# Seconds between two lines.
LINE_INTERVAL = 5

# Seconds. A retry delay of this length is announced.
LONG_DELAY = 5

# The rich progress bar hides the cursor (ECMA-48).
SHOW_CURSOR = b"\x1b[?25h\n"


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


class Bar(Lines):
    """Progress as a bar, for terminals."""

    def __init__(self, name: str, *, as_json: bool = False) -> None:
        super().__init__(name, as_json=as_json)
        self._progress = BarWithStatistics(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            CountColumn(Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        """Remove the bar."""
        self._progress.stop()

    def restore(self) -> None:
        """Show the cursor."""
        with suppress(OSError):
            os.write(2, SHOW_CURSOR)

    def begin(self, phase: str, unit: str, total: int | None, done: int = 0) -> None:
        """Replace the bar with the bar of the next phase."""
        for task_id in self._progress.task_ids:
            self._progress.remove_task(task_id)
        self._task = self._progress.add_task(
            phase, total=total, completed=done, unit=unit
        )
        self._progress.statistics = str(self.statistics)

    def log(self, text: str) -> None:
        """Print nothing: the summary follows."""

    def update(self, done: int) -> None:
        """Move the bar."""
        self._progress.statistics = str(self.statistics)
        self._progress.update(self._task, completed=done)

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(Text(text), soft_wrap=True)


class BarWithStatistics(Progress):
    """A progress bar with a line of statistics, which is truncated at the line end."""

    statistics = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return the bar and the statistics."""
        yield self.make_tasks_table(self.tasks)
        if self.statistics:
            yield Text(self.statistics, no_wrap=True, overflow="ellipsis")


class CountColumn(ProgressColumn):
    """Completed and total units, and units per second."""

    def render(self, task: Task) -> Text:
        """Return the column of ``task``."""
        total = f"/{task.total:,.0f}" if task.total else ""
        text = f"{task.completed:,.0f}{total} {task.fields['unit']}"
        return Text(f"{text}, {task.speed:,.0f}/s" if task.speed else text)


def make_display(name: str, *, quiet: bool, as_json: bool) -> Display:
    """Return a display for a terminal, for a log file, or without progress."""
    if quiet:
        return Display(name, as_json=as_json)
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "")
    return (Bar if is_terminal else Lines)(name, as_json=as_json)
