"""What is seen on a terminal while it runs: a bar, and the counts below it."""

import os
import sys
from collections.abc import Iterable

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

from bulk_metadata.client.progress import Display

# ECMA-48's "set mode" for the cursor, which the bar hides.
SHOW_CURSOR = b"\x1b[?25h\n"


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
