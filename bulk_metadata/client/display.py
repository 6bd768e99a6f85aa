"""What is seen while it runs: a bar on a terminal, else a line now and then."""

import os
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager

import click
import msgspec
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

from bulk_metadata.client.device import Problem, shorten
from bulk_metadata.client.tally import Tally

# Seconds between two lines: it is seen that it goes on, and no log is flooded.
LINE_INTERVAL = 5

# ECMA-48's "set mode" for the cursor, which the bar hides.
SHOW_CURSOR = b"\x1b[?25h\n"


class Display(AbstractContextManager["Display"]):
    """Shows nothing but what must be said. The others show more."""

    def __init__(self, name: str, *, as_json: bool = False) -> None:
        """``name`` is the file's. With ``as_json`` problems go to standard output."""
        self.tally = Tally()
        self._name = name
        self._as_json = as_json

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""

    def leave(self) -> None:
        """Leave it nearly so, without a lock that another thread may hold."""

    def begin(self, what: str, unit: str, total: int | None, done: int = 0) -> None:
        """Begin a phase of so many units, of which some may be done already."""

    def update(self, done: int) -> None:
        """Show that so many of the phase's units are done."""

    def say(self, text: str) -> None:
        """Show a line that stays."""
        click.echo(text, err=True)

    def problem(self, problem: Problem) -> None:
        """Show what is wrong with the file."""
        _, line, identifier, reason = problem
        if self._as_json:
            found = {"problem": reason, "line": line, "identifier": identifier}
            click.echo(msgspec.json.encode(found))
        else:
            device = f', device "{shorten(identifier)}"' if identifier else ""
            self.say(printable(f"{self._name}, line {line}{device}: {reason}"))


class Lines(Display):
    """For logs: a line every few seconds."""

    def begin(self, what: str, unit: str, total: int | None, done: int = 0) -> None:
        """Say so."""
        self._what, self._unit, self._total, self._first = what, unit, total, done
        self._start = self._last = time.monotonic()
        self.say(f"{what} ...")

    def update(self, done: int) -> None:
        """Say so, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._last < LINE_INTERVAL:
            return
        self._last = now
        speed = (done - self._first) / (now - self._start)
        parts = [f"{done:,}"]
        if self._total:
            parts = [f"{done:,} of {self._total:,}"]
        parts[0] += f" {self._unit}"
        parts.append(f"{speed:,.0f} a second")
        if self._total and speed:
            parts.append(f"{(self._total - done) / speed:,.0f} s left")
        self.say("; ".join(filter(None, [", ".join(parts), str(self.tally)])))


class Bar(Display):
    """For people: a bar that moves."""

    def __init__(self, name: str, *, as_json: bool = False) -> None:
        super().__init__(name, as_json=as_json)
        self._progress = Picture(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            Count(Column(no_wrap=True)),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            expand=True,
        )
        self._progress.start()

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def leave(self) -> None:
        """Show the cursor again."""
        os.write(sys.stderr.fileno(), SHOW_CURSOR)

    def begin(self, what: str, unit: str, total: int | None, done: int = 0) -> None:
        """Show a new bar in place of the one before."""
        for task_id in self._progress.task_ids:
            self._progress.remove_task(task_id)
        self._task = self._progress.add_task(
            what, total=total, completed=done, unit=unit
        )
        self._progress.tally = str(self.tally)

    def update(self, done: int) -> None:
        """Move it."""
        self._progress.tally = str(self.tally)
        self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """Show it above the bar."""
        self._progress.console.print(Text(text), soft_wrap=True)


class Picture(Progress):
    """The bar, and below it the tally, cut where the line ends."""

    tally = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Return both."""
        yield self.make_tasks_table(self.tasks)
        if self.tally:
            yield Text(self.tally, no_wrap=True, overflow="ellipsis")


class Count(ProgressColumn):
    """How many of how many, and how fast."""

    def render(self, task: Task) -> Text:
        """Return it for ``task``."""
        total = f"/{task.total:,.0f}" if task.total else ""
        text = f"{task.completed:,.0f}{total} {task.fields['unit']}"
        return Text(f"{text}, {task.speed:,.0f}/s" if task.speed else text)


def printable(text: str) -> str:
    """Return ``text`` without what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
