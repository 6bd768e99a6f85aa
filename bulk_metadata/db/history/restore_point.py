"""The version of a device that an undo restores."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Change(NamedTuple):
    """A change of a device's metadata."""

    id: int
    #: Set by an undo: the change restored the state from before this earlier change.
    restores: int | None
    #: None if another program changed the device.
    request_id: str | None
    #: Whether the undo targets this change.
    is_target: bool


class RestorePoint(NamedTuple):
    """The change whose previous state is restored, and the last change by another
    writer since then."""

    change: Change | None
    changed_by: Change | None


def find_restore_point(changes: Sequence[Change], *, force: bool) -> RestorePoint:
    """Return the restore point of a device with these changes, oldest first.

    State n is the result of the first n changes. The search goes back from the last
    state and skips changes that were undone. It ends before the last uninterrupted run
    of target changes, with ``force`` before the first target change.
    """
    change, changed_by = None, None
    state = len(changes)
    while state:
        equal = list(_equal_states(changes, state))
        written = [state for state in equal if state and changes[state - 1].is_target]
        if written:
            state = written[0] - 1
            change = changes[state]
        elif equal[-1] == 0 or (change and not force):
            break
        else:
            state = equal[-1] - 1
            changed_by = changed_by or (None if change else changes[state])
    return RestorePoint(change, changed_by)


def _equal_states(changes: Sequence[Change], state: int) -> Iterator[int]:
    """Yield the state and the earlier states that undos restored in it. The last one
    has no such state."""
    yield state
    while state and (restores := changes[state - 1].restores) is not None:
        # 0 if the restored state is older than all changes.
        state = bisect_left(changes, restores, key=lambda change: change.id)
        yield state
