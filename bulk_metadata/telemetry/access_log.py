"""The access log: an entry for each request on standard output, as JSON or, on a
terminal, as text."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import TextIO

from bulk_metadata.core.json_text import Struct, encode
from bulk_metadata.core.text import printable
from bulk_metadata.telemetry.context import RequestContext

logger = logging.getLogger(__name__)

# Set by set_up. TextIO.isatty is a system call, so its result is kept.
_stream: TextIO | None = None
_is_terminal = False


class Entry(Struct, rename="camel", kw_only=True, omit_defaults=True):
    """A log entry, in the order of its members. It contains no API key and no metadata.

    Members with a default are omitted if they have it.
    """

    time: datetime
    level: str
    request_id: str
    method: str
    path: str
    dry_run: bool = False
    status: int
    organization_id: str | None
    key_id: str | None
    devices: int | None
    updated: int | None
    not_found: int | None
    total_ms: float
    database_ms: float
    retries: int
    bytes: int
    exception: str = ""


def set_up(stream: TextIO | None = sys.stdout) -> None:
    """Write the access log to ``stream``, as text if it is a terminal.

    Python sets the standard output to None if it is closed.
    """
    global _stream, _is_terminal
    _stream = stream
    _is_terminal = stream is not None and stream.isatty()


def write(context: RequestContext, status: int) -> None:
    """Log the request, which gets a response with ``status``.

    An error does not change the response: the update may be committed.
    """
    if _stream is None:
        return
    try:
        entry = create_entry(context, status)
        text = to_text(entry) if _is_terminal else encode(entry).decode()
        # logging.StreamHandler would take nine times as long.
        _stream.write(text + "\n")
        _stream.flush()
    except Exception as error:
        logger.warning(
            "Cannot write the access log: %s", error, exc_info=context.exception
        )


def create_entry(context: RequestContext, status: int) -> Entry:
    """Return the entry of the request."""
    entry = Entry(
        time=datetime.now(UTC),
        level="error" if context.exception else "info",
        request_id=context.request_id,
        method=context.method,
        path=context.path,
        dry_run=context.is_dry_run,
        status=status,
        organization_id=context.organization_id,
        key_id=context.key_id,
        devices=context.devices,
        updated=context.updated,
        not_found=context.not_found,
        total_ms=round(context.seconds * 1000, 3),
        database_ms=round(context.database_seconds * 1000, 3),
        retries=context.retries,
        bytes=context.body_bytes,
    )
    if context.exception:
        entry.exception = "".join(traceback.format_exception(context.exception))
    return entry


def to_text(entry: Entry) -> str:
    """Return the entry as a short line for a terminal, followed by the traceback of a
    failure."""
    parts = [
        f"{entry.time.astimezone():%H:%M:%S}",
        entry.method,
        printable(entry.path),
        str(entry.status),
    ]
    if entry.devices is not None:
        parts.append(f"{entry.devices} devices")
    if entry.updated is not None:
        outcome = "would be updated" if entry.dry_run else "updated"
        parts.append(f"{entry.updated} {outcome}")
    parts.append(f"{entry.total_ms:.1f} ms")
    if entry.exception:
        parts.append(f"\n{entry.exception.rstrip()}")
    return " ".join(parts)
