"""Batches: as many devices as fit into a call."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from bulk_metadata.files.device import Device

HEAD = b'{"devices":{'
TAIL = b"}}"


class Batch(NamedTuple):
    """Devices, and the body of the call for them."""

    devices: Sequence[Device]
    body: bytes


class Batcher:
    """Makes batches of at most so many devices and so many bytes."""

    def __init__(self, max_devices: int, max_bytes: int) -> None:
        self._max_devices = max_devices
        self._max_bytes = max_bytes

    def lower(self, max_bytes: int) -> None:
        """Let no batch from now on have more bytes than so many."""
        self._max_bytes = min(self._max_bytes, max_bytes)

    def batches(self, devices: Iterable[Device]) -> Iterator[Batch]:
        """Yield ``devices`` in batches, in their order. One that is too large by itself
        is a batch by itself."""
        chosen: list[Device] = []
        members: list[bytes] = []
        size = 0
        for device in devices:
            member = _member(device)
            if chosen and (
                len(chosen) == self._max_devices
                or size + len(member) > self._max_bytes - len(HEAD + TAIL)
            ):
                yield Batch(chosen, _body(members))
                chosen, members, size = [], [], 0
            chosen.append(device)
            members.append(member)
            size += len(member) + 1  # and a comma
        if chosen:
            yield Batch(chosen, _body(members))


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return two batches that do what ``batch``, of two devices at least, does."""
    middle = len(batch.devices) // 2
    first, second = batch.devices[:middle], batch.devices[middle:]
    return _batch(first), _batch(second)


def _batch(devices: Sequence[Device]) -> Batch:
    return Batch(devices, _body(map(_member, devices)))


def body_size(device: Device) -> int:
    """Return how many bytes the body of a call for ``device`` alone has."""
    return len(_body([_member(device)]))


def _body(members: Iterable[bytes]) -> bytes:
    return HEAD + b",".join(members) + TAIL


def _member(device: Device) -> bytes:
    return msgspec.json.encode(device.identifier) + b":" + device.document
