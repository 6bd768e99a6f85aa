"""Devices by the million: ``flask import-devices``.

COPY brings the file into a table of its own, and from there, once all of it is known to
be good, one INSERT creates those that do not exist yet.
"""

import re
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import click
from psycopg2.errors import StatementTooComplex
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.device_file import (
    NESTED_TOO_DEEPLY,
    Device,
    DeviceFileError,
    read_devices,
)
from bulk_metadata.commands.transaction import blueprint, session
from bulk_metadata.db.accounts import find_organization


@blueprint.cli.command("import-devices")
@click.argument("organization")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_devices_command(organization: str, file: Path) -> None:
    """Create the devices of FILE in ORGANIZATION (its id or name).

    FILE is CSV with a column "identifier" and, if wanted, "metadata" (a JSON object),
    or NDJSON with such members. Devices that exist already are left alone. One bad
    line, and nothing is imported.
    """
    if not file.is_file():
        raise click.ClickException(f"{file} is not a regular file.")
    is_terminal = sys.stderr.isatty()
    with session() as cursor:
        organization_id = find_organization(cursor, organization)
        with click.progressbar(
            length=file.stat().st_size,
            label="Reading",
            file=sys.stderr,
            hidden=not is_terminal,
        ) as progress:
            total = copy_devices(cursor, file, progress.update)
        if is_terminal:
            click.echo(f"Storing {total} devices ...", err=True)
        imported = insert_devices(cursor, organization_id, file)
    click.echo(
        f'Imported into "{organization}": {imported} new, '
        f"{total - imported} that existed already and were left alone."
    )


# Bytes of the file in memory at a time: enough that the round trips do not count.
COPY_BYTES = 1024 * 1024

CREATE_IMPORTED = """
CREATE TEMPORARY TABLE imported (
    line            bigint,
    identifier      text COLLATE "C",
    device_metadata jsonb
) ON COMMIT DROP
"""

COPY_IMPORTED = "COPY imported FROM STDIN"


def copy_devices(cursor: Cursor, path: Path, advance: Callable[[int], object]) -> int:
    """Copy the file at ``path`` to the server and return how many devices it has.

    ``advance`` is told how many bytes were read since it was told last. Raises
    DeviceFileError at the first bad line.
    """
    cursor.execute(CREATE_IMPORTED)
    total = 0
    for devices, size in _batches(path):
        _copy(cursor, path, devices)
        total += len(devices)
        advance(size)
    return total


def _batches(path: Path) -> Iterator[tuple[list[Device], int]]:
    """Yield the file's devices piece by piece, each with its size in bytes."""
    devices: list[Device] = []
    start = 0
    with path.open("rb") as file:
        for device in read_devices(path, file):
            devices.append(device)
            if (size := file.tell() - start) >= COPY_BYTES:
                yield devices, size
                devices = []
                start = file.tell()
        yield devices, file.tell() - start


def _copy(cursor: Cursor, path: Path, devices: list[Device]) -> None:
    rows = "".join(
        f"{line}\t{_escape(identifier)}\t{_escape(document.decode())}\n"
        for line, identifier, document in devices
    )
    try:
        cursor.copy_expert(COPY_IMPORTED, StringIO(rows))
    except StatementTooComplex as error:
        # How deep jsonb may nest is for the server's max_stack_depth to say.
        # Its first number is the row's, in whatever language the server speaks.
        row = re.findall(r"\d+", error.diag.context or "")[0]
        line = devices[int(row) - 1].line
        raise DeviceFileError(f"{path}, line {line}: {NESTED_TOO_DEEPLY}") from None


def _escape(text: str) -> str:
    """Return ``text`` as COPY's text format wants it."""
    return (
        text.replace("\\", "\\\\")
        .replace("\t", "\\t")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
    )


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


def insert_devices(cursor: Cursor, organization_id: str, path: Path) -> int:
    """Create those of the copied devices that the organization does not have yet, and
    return how many.

    Raises DeviceFileError if two lines have the same identifier: which should it be?
    """
    cursor.execute(SELECT_REPEATED)
    row = cursor.fetchone()
    if row is not None:
        identifier, (first, second) = row
        raise DeviceFileError(
            f'{path}, line {second}: identifier "{identifier}" stands in line {first} '
            "already"
        )
    cursor.execute(INSERT_DEVICES, (organization_id,))
    return cursor.rowcount
