"""Devices by the million: ``flask import-devices``.

COPY brings the file into a table of its own, and from there, once all of it is known to
be good, one INSERT creates those that do not exist yet.
"""

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import StringIO
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext
from psycopg2.errors import StatementTooComplex
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.device_file import Device, DeviceFileError, read_devices
from bulk_metadata.commands.organizations import find_organization
from bulk_metadata.commands.session import session


@click.command("import-devices")
@click.argument("organization")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_appcontext
def import_devices_command(organization: str, file: Path) -> None:
    """Create the devices of FILE in ORGANIZATION (its id or name).

    FILE is CSV with a column "identifier" and, if wanted, "metadata" (a JSON object),
    or NDJSON with such members. Devices that exist already are left alone. One bad
    line, and nothing is imported.
    """
    with session() as cursor, progress_bar(file.stat().st_size) as progress:
        organization_id = find_organization(cursor, organization)
        imported, existing = import_devices(
            cursor, organization_id, file, progress.update
        )
    click.echo(
        f'Imported {imported} devices into "{organization}"; '
        f"{existing} existed already and were left alone."
    )


def progress_bar(length: int) -> AbstractContextManager[Any]:
    """Return a bar that grows to ``length`` bytes, shown on a terminal only."""
    return click.progressbar(
        length=length,
        label="Importing",
        file=sys.stderr,
        hidden=not sys.stderr.isatty(),
    )


# Rows in memory at a time: enough that the round trips do not count.
COPY_ROWS = 10_000

CREATE_IMPORTED = """
CREATE TEMPORARY TABLE imported (
    line            bigint,
    identifier      text COLLATE "C",
    device_metadata jsonb
) ON COMMIT DROP
"""

COPY_IMPORTED = "COPY imported FROM STDIN"

SELECT_REPEATED = """
  SELECT identifier, (array_agg(line ORDER BY line))[:2]
    FROM imported
GROUP BY identifier
  HAVING count(*) > 1
ORDER BY 2
   LIMIT 1
"""

# In the order in which the service locks, so that the two cannot deadlock.
INSERT_DEVICES = """
INSERT INTO devices (organization_id, identifier, device_metadata)
     SELECT %s, identifier, device_metadata
       FROM imported
   ORDER BY identifier
ON CONFLICT (organization_id, identifier) DO NOTHING
"""


def import_devices(
    cursor: Cursor, organization_id: str, path: Path, advance: Callable[[int], object]
) -> tuple[int, int]:
    """Create the devices of the file at ``path``; return how many were created and how
    many existed already.

    ``advance`` is called with the number of bytes read since it was called last. Raises
    DeviceFileError for the first bad line; the caller's transaction then has to end.
    """
    cursor.execute(CREATE_IMPORTED)
    total = 0
    with path.open("rb") as file:
        batch: list[Device] = []
        done = 0
        for device in read_devices(path, file):
            batch.append(device)
            if len(batch) == COPY_ROWS:
                total += _copy(cursor, path, batch)
                advance(file.tell() - done)
                done = file.tell()
                batch.clear()
        total += _copy(cursor, path, batch)
        advance(file.tell() - done)
    _refuse_repeated(cursor, path)
    cursor.execute(INSERT_DEVICES, (organization_id,))
    return cursor.rowcount, total - cursor.rowcount


def _copy(cursor: Cursor, path: Path, devices: list[Device]) -> int:
    rows = "".join(
        f"{line}\t{_escape(identifier)}\t{_escape(document.decode())}\n"
        for line, identifier, document in devices
    )
    try:
        cursor.copy_expert(COPY_IMPORTED, StringIO(rows))
    except StatementTooComplex as error:
        # How deep jsonb may nest is for the server's max_stack_depth to say.
        [row] = re.findall(r"line (\d+)", error.diag.context or "")
        line = devices[int(row) - 1].line
        raise DeviceFileError(
            f"{path}, line {line}: metadata: nested too deeply"
        ) from None
    return len(devices)


def _escape(text: str) -> str:
    """Return ``text`` as COPY's text format wants it."""
    return (
        text.replace("\\", "\\\\")
        .replace("\t", "\\t")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
    )


def _refuse_repeated(cursor: Cursor, path: Path) -> None:
    """Raise DeviceFileError if two lines have the same identifier: which one should it
    be?"""
    cursor.execute(SELECT_REPEATED)
    row = cursor.fetchone()
    if row is not None:
        identifier, (first, second) = row
        raise DeviceFileError(
            f'{path}, line {second}: identifier "{identifier}" stands in line {first} '
            "already"
        )
