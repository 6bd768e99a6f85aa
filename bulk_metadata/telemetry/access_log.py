"""The access log: an entry for each request on standard output, as JSON or, on a
terminal, as text."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from bulk_metadata.core.json_text import Struct, encode
from bulk_metadata.core.text import printable
from bulk_metadata.telemetry.context import RequestContext

logger = logging.getLogger(__name__)


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
    """Write the access log to ``stream``, as text if it is a terminal."""
    handler: logging.Handler = logging.NullHandler()
    if stream is not None:  # Python sets it to None if standard output is closed.
        handler = logging.StreamHandler(stream)
        handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # The handlers of the root logger write other messages.
    logger.propagate = False


def write(context: RequestContext, status: int) -> None:
    """Log the request, which gets a response with ``status``."""
    level = logging.ERROR if context.exception else logging.INFO
    if not logger.isEnabledFor(level):
        return
    entry = Entry(
        time=datetime.now(UTC),
        level=logging.getLevelName(level).lower(),
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
    logger.log(level, entry)


class JsonFormatter(logging.Formatter):
    """A formatter that writes an entry as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON text of the entry."""
        return encode(record.msg).decode()


class TextFormatter(logging.Formatter):
    """A formatter that writes an entry as a short line for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback of a failure."""
        entry: Any = record.msg
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
