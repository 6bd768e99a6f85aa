"""Batches: devices per request, limited in number and bytes."""

import json

from bulk_metadata.client.batches import Batcher, split
from bulk_metadata.files.device import Device
from tests.files.reading import LIMIT


def device(number: int, identifier: str, document: bytes = b"{}") -> Device:
    return Device(number, number, identifier, document)


def test_batches_respect_device_and_byte_limits() -> None:
    devices = [device(number, f"SN-{number:03}") for number in range(100)]
    assert [len(b.devices) for b in Batcher(30, LIMIT).batches(devices)] == [
        30,
        30,
        30,
        10,
    ]
    size = len(b'{"devices":{"SN-000":{},"SN-001":{}}}')
    for limit, most in ((size, 2), (size - 1, 1)):
        batches = list(Batcher(1000, limit).batches(devices))
        assert max(len(batch.devices) for batch in batches) == most
        assert max(len(batch.body) for batch in batches) <= limit
        assert [d for batch in batches for d in batch.devices] == devices
    assert batches[0].body == b'{"devices":{"SN-000":{}}}'


def test_lowered_limit_applies_to_later_batches() -> None:
    batcher = Batcher(1000, LIMIT)
    devices = (device(number, f"SN-{number:03}") for number in range(4000))
    batches = batcher.batches(devices)
    first = next(batches)
    batcher.reduce(len(first.body) // 2)
    rest = list(batches)
    assert len(first.devices) == 1000
    assert max(len(batch.body) for batch in rest[1:]) <= len(first.body) // 2
    # It is never raised again.
    batcher.reduce(LIMIT)
    [small] = batcher.batches([device(1, "a")])
    assert small.body == b'{"devices":{"a":{}}}'


def test_halves_contain_same_devices() -> None:
    devices = [device(n, name) for n, name in enumerate(['"', "é", "\n"], 1)]
    [batch] = Batcher(1000, LIMIT).batches(devices)
    first, second = split(batch)
    assert [*first.devices, *second.devices] == devices
    assert json.loads(batch.body)["devices"] == {
        **json.loads(first.body)["devices"],
        **json.loads(second.body)["devices"],
    }
