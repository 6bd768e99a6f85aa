"""Progress as a bar. rich takes a fifth of the start time of the client, so this module
is imported only for a terminal."""

import os
from collections.abc import Iterable
from contextlib import suppress

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

from bulk_metadata.client.progress import Lines

# The rich progress bar hides the cursor (ECMA-48).
SHOW_CURSOR = b"\x1b[?25h\n"


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
