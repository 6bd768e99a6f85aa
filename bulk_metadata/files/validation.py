"""What the API would refuse, or could never match, found before it is sent."""

from collections.abc import Iterator, Sequence

from bulk_metadata.client.batches import body_size
from bulk_metadata.core.jsonb import may_violate, violation
from bulk_metadata.files.device import Device, Problem

# A character of an identifier can take six bytes of JSON, a control character's \u0001.
MOST_BYTES = 6


def judge(devices: Sequence[Device], max_bytes: int) -> Iterator[Problem]:
    """Yield what is wrong with ``devices``; ``max_bytes`` is the limit of a body."""
    # One search in all of them is a third of the work of one in each.
    suspect = may_violate(b",".join(device.document for device in devices))
    for device in devices:
        if reason := _reason(device, max_bytes, suspect=suspect):
            number, line, identifier, _ = device
            yield Problem(number, line, identifier, reason)


def _reason(device: Device, max_bytes: int, *, suspect: bool) -> str | None:
    _, _, identifier, document = device
    if not identifier:
        return "the identifier is empty"
    if "\0" in identifier:
        return "the identifier must not contain the NUL character"
    if document[0] != ord("{"):
        return "metadata must be a JSON object"
    if suspect and (reason := violation(document)):
        return f"metadata: {reason}"
    if (
        len(document) + MOST_BYTES * len(identifier) > max_bytes // 2
        and (size := body_size(device)) > max_bytes
    ):
        return f"{size} bytes in a call by itself, where {max_bytes} are the limit"
    return None
