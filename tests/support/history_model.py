"""A model of the history and of undo: immutable states in lists."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class State:
    """A state of a device. ``writers`` maps each request that led to this state to the
    state before it: a request, and undos that restored the state."""

    metadata: int = 0
    writers: dict[object, "State"] = field(default_factory=dict)
    previous: "State | None" = None
    writer: str | None = None


class Model:
    """The devices of an organization, as lists of states and versions."""

    def __init__(self, devices: Iterable[str]) -> None:
        self.states = {device: State() for device in devices}
        self.versions: dict[str, list[tuple[str | None, int]]] = {
            device: [] for device in self.states
        }
        self.last_writers: dict[str, str | None] = dict.fromkeys(self.states)
        self.requests: list[str] = []

    def write(self, device: str, writer: str | None, metadata: int) -> None:
        before = self.states[device]
        label = writer or object()
        self._change(device, writer, State(metadata, {label: before}, before, writer))

    def _change(self, device: str, writer: str | None, state: State) -> None:
        self.versions[device].insert(0, (writer, self.states[device].metadata))
        self.states[device] = state
        self.last_writers[device] = writer
        if writer:
            self.requests = [writer, *(id for id in self.requests if id != writer)]

    def undo(
        self, target: str, undo_id: str, *, force: bool
    ) -> tuple[int, set[tuple[str, str | None]]]:
        """Return the number of restored devices, and the skipped devices."""
        restored, skipped = 0, set()
        for device, current in self.states.items():
            state: State | None = current
            before = None
            while state:
                if target in state.writers:
                    before = state = state.writers[target]
                elif before and not force:
                    break
                else:
                    state = state.previous
            if before is None:
                continue
            if target not in current.writers and not force:
                skipped.add((device, current.writer))
                continue
            writers = {**before.writers, undo_id: current}
            state = State(before.metadata, writers, before.previous, before.writer)
            self._change(device, undo_id, state)
            restored += 1
        return restored, skipped

    def counts(self) -> list[tuple[str, int, int]]:
        """Return the devices of each request, and those that have its metadata."""
        return [
            (
                request,
                sum(request in dict(versions) for versions in self.versions.values()),
                sum(request in state.writers for state in self.states.values()),
            )
            for request in self.requests
        ]
