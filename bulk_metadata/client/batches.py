"""Batches: devices in groups, each the body of a request."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from bulk_metadata.core.json_text import encode
from bulk_metadata.files.device import Device

HEAD = b'{"devices":{'
TAIL = b"}}"


class Batch(NamedTuple):
    """Devices, and the body of the request for them."""

    devices: Sequence[Device]
    body: bytes


class Batcher:
    """A generator of batches with limits for devices and bytes."""

    def __init__(self, max_devices: int, max_bytes: int) -> None:
        self._max_devices = max_devices
        self._max_bytes = max_bytes

    def reduce(self, max_bytes: int) -> None:
        """Reduce the maximum size of the following batches."""
        self._max_bytes = min(self._max_bytes, max_bytes)

    def batches(self, devices: Iterable[Device]) -> Iterator[Batch]:
        """Yield ``devices`` in batches, in their order. A device that exceeds the limit
        is a batch of one device."""
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


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Return the two halves of a batch of at least two devices."""
    middle = len(batch.devices) // 2
    first, second = batch.devices[:middle], batch.devices[middle:]
    return _batch(first), _batch(second)


def _batch(devices: Sequence[Device]) -> Batch:
    return Batch(devices, _body(map(_member, devices)))


def _body(members: Iterable[bytes]) -> bytes:
    return HEAD + b",".join(members) + TAIL


def _member(device: Device) -> bytes:
    return encode(device.identifier) + b":" + device.document
