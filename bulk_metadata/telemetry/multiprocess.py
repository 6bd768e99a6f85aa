"""Metric values that all gunicorn workers share, in anonymous memory.

The gunicorn master maps the memory before it forks. A value has one cell per worker, so
that workers need no lock. A killed worker leaves its counts, and its successor adds to
them. prometheus_client's multiprocess mode uses files instead. They grow with each dead
worker, a truncated file kills the worker that writes to it (SIGBUS), a damaged one
breaks each scrape, and an increment takes twice as long.
"""

import mmap
from collections.abc import Container
from threading import Lock
from typing import Any

from prometheus_client import values

# One memory page per value. With more workers, the last ones share a cell, and an
# increment is lost if two of them count at the same moment.
CELLS = mmap.PAGESIZE // 8

# The cells of all gauges, which are reset when their worker exits.
_gauges: list["memoryview[float]"] = []

_cell = 0


class SharedValue:
    """A value of prometheus_client: the sum of its cells, or their maximum."""

    _multiprocess = False

    def __init__(
        self, kind: str, *_: object, multiprocess_mode: str = "livesum", **__: Any
    ) -> None:
        self._cells = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("d")
        self._combine = max if multiprocess_mode == "livemax" else sum
        self._lock = Lock()
        if kind == "gauge":
            _gauges.append(self._cells)

    def inc(self, amount: float) -> None:
        """Add ``amount`` to the value of this worker."""
        with self._lock:
            self._cells[_cell] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set the value of this worker."""
        with self._lock:
            self._cells[_cell] = value

    def get(self) -> float:
        """Return the value of all workers."""
        return float(self._combine(self._cells))

    def get_exemplar(self) -> None:
        """Return no exemplar: the service records none."""


def share_values() -> None:
    """Let prometheus_client share the values of all metrics that are created later."""
    values.ValueClass = SharedValue


def free_cell(used: Container[int]) -> int:
    """Return a cell for a new worker, given the cells of the running workers."""
    return next((cell for cell in range(CELLS) if cell not in used), CELLS - 1)


def use_cell(cell: int) -> None:
    """Count in ``cell`` from now on."""
    global _cell
    _cell = cell


def clear_gauges(cell: int) -> None:
    """Reset the gauges of a worker that has exited."""
    for cells in _gauges:
        cells[cell] = 0.0
