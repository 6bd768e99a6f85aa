"""What is seen while it runs, where there is no terminal: a line now and then."""

import time
from contextlib import AbstractContextManager

import click
import msgspec

from bulk_metadata.client.tally import Tally
from bulk_metadata.core.text import printable, shorten
from bulk_metadata.files.device import Problem

# Seconds between two lines: it is seen that it goes on, and no log is flooded.
LINE_INTERVAL = 5


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
