"""The log of requests: a line for each on standard output, as JSON for machines."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from bulk_metadata.telemetry.context import Record

logger = logging.getLogger(__name__)


class Line(msgspec.Struct, rename="camel", kw_only=True):
    """What a line says, in this order. Never a key, and no word of metadata."""

    time: datetime
    level: str
    request_id: str
    method: str
    path: str
    dry_run: bool | msgspec.UnsetType = msgspec.UNSET
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
    exception: str | msgspec.UnsetType = msgspec.UNSET


def set_up(stream: TextIO = sys.stdout) -> None:
    """Write the log to ``stream``: as plain text if a person looks at it."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # The other messages' handlers need not repeat it.
    logger.propagate = False


def write(record: Record, status: int) -> None:
    """Write the line of the request that was answered with ``status``."""
    level = logging.ERROR if record.exception else logging.INFO
    if not logger.isEnabledFor(level):
        return
    line = Line(
        time=datetime.now(UTC),
        level=logging.getLevelName(level).lower(),
        request_id=record.request_id,
        method=record.method,
        path=record.path,
        dry_run=record.is_dry_run or msgspec.UNSET,
        status=status,
        organization_id=record.organization_id,
        key_id=record.key_id,
        devices=record.devices,
        updated=record.updated,
        not_found=record.not_found,
        total_ms=round(record.seconds * 1000, 3),
        database_ms=round(record.database_seconds * 1000, 3),
        retries=record.retries,
        bytes=record.body_bytes,
    )
    if record.exception:
        line.exception = "".join(traceback.format_exception(record.exception))
    logger.log(level, line)


class JsonFormatter(logging.Formatter):
    """One line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line that ``record`` carries."""
        return msgspec.json.encode(record.msg).decode()


class TextFormatter(logging.Formatter):
    """The same in short, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line that ``record`` carries, and under it its exception."""
        line: Any = record.msg
        parts = [
            f"{line.time.astimezone():%H:%M:%S}",
            line.method,
            # A path may hold what moves a terminal's cursor.
            line.path if line.path.isprintable() else ascii(line.path),
            str(line.status),
        ]
        if line.devices is not None:
            parts.append(f"{line.devices} devices")
        if line.updated is not None:
            done = "would be updated" if line.dry_run else "updated"
            parts.append(f"{line.updated} {done}")
        parts.append(f"{line.total_ms:.1f} ms")
        if line.exception:
            parts.append(f"\n{line.exception.rstrip()}")
        return " ".join(parts)
