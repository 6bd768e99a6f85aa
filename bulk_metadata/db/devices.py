"""The devices of an organization: the statements of the commands for device files."""

import re
from collections.abc import Generator, Iterator, Sequence
from io import StringIO
from typing import Any

from psycopg2.errors import StatementTooComplex
from psycopg2.extensions import cursor as Cursor

# The devices of a file, before they are compared with those of the organization.
CREATE_FILE_DEVICES = """
CREATE TEMPORARY TABLE file_devices (
    number          bigint,
    line            bigint,
    identifier      text COLLATE "C",
    device_metadata jsonb
) ON COMMIT DROP
"""

COPY_FILE_DEVICES = "COPY file_devices FROM STDIN"

# Rows that a cursor fetches at a time. Each may contain several megabytes.
FETCH_ROWS = 200

# Number, line, identifier and metadata of a device in a file.
FileDevice = tuple[int, int, str, bytes]


class NestingError(Exception):
    """The metadata of a device has more levels than the server can parse."""

    def __init__(self, device: FileDevice) -> None:
        super().__init__()
        self.device = device


def create_file_devices(cursor: Cursor) -> None:
    """Create the table for the devices of a file."""
    cursor.execute(CREATE_FILE_DEVICES)


def copy_file_devices(cursor: Cursor, devices: Sequence[FileDevice]) -> None:
    """Copy ``devices`` to the server. Raises NestingError."""
    rows = "".join(
        f"{number}\t{line}\t{_escape(identifier)}\t{_escape(document.decode())}\n"
        for number, line, identifier, document in devices
    )
    try:
        cursor.copy_expert(COPY_FILE_DEVICES, StringIO(rows))
    except StatementTooComplex as error:
        # max_stack_depth of the server limits the nesting. The first number in the
        # context of the error is the row, in every language of the server.
        row = re.findall(r"\d+", error.diag.context or "")[0]
        raise NestingError(devices[int(row) - 1]) from None


def _escape(text: str) -> str:
    """Return ``text`` in the text format of COPY."""
    return (
        text.replace("\\", "\\\\")
        .replace("\t", "\\t")
        .replace("\n", "\\n")
        .replace("\r", "\\r")
    )


SELECT_REPEATED = """
  SELECT number, line, identifier, first_line
    FROM file_devices
    JOIN (SELECT identifier, min(number) AS first_number, min(line) AS first_line
            FROM file_devices
        GROUP BY identifier
          HAVING count(*) > 1) AS repeated
   USING (identifier)
   WHERE number > first_number
ORDER BY number
"""


def select_repeated(cursor: Cursor) -> Iterator[tuple[int, int, str, int]]:
    """Yield each device that occurs before in the file: number, line, identifier, and
    the line of the first occurrence."""
    return _stream(cursor, SELECT_REPEATED)


def _stream(
    cursor: Cursor, query: str, *arguments: object
) -> Generator[Any, None, None]:
    """Yield the rows of ``query`` in bounded memory."""
    with cursor.connection.cursor("stream") as stream:
        stream.itersize = FETCH_ROWS
        stream.execute(query, arguments)
        yield from stream


# In the order in which the service locks devices, so that no deadlock occurs.
INSERT_DEVICES = """
WITH created AS (
     INSERT INTO devices (organization_id, identifier, device_metadata)
          SELECT %s, identifier, device_metadata
            FROM file_devices
        ORDER BY identifier
     ON CONFLICT (organization_id, identifier) DO NOTHING
       RETURNING 1)
SELECT count(*)
  FROM created
"""


def insert_devices(cursor: Cursor, organization_id: str) -> int:
    """Create the devices of the file that do not exist, and return their number."""
    cursor.execute(INSERT_DEVICES, (organization_id,))
    [[created]] = cursor.fetchall()
    return int(created)


COUNT_DEVICES = """
SELECT count(*)
  FROM devices
 WHERE organization_id = %s
"""

COUNT_LISTED_DEVICES = """
SELECT count(*)
  FROM file_devices
  JOIN devices USING (identifier)
 WHERE organization_id = %s
"""

SELECT_DEVICES = """
  SELECT identifier, device_metadata::text
    FROM devices
   WHERE organization_id = %s
ORDER BY identifier
"""

SELECT_LISTED_DEVICES = """
  SELECT identifier, devices.device_metadata::text
    FROM file_devices
    JOIN devices USING (identifier)
   WHERE organization_id = %s
ORDER BY identifier
"""


def count_devices(cursor: Cursor, organization_id: str, is_listed: bool) -> int:
    """Return the number of devices, or of those in the file."""
    query = COUNT_LISTED_DEVICES if is_listed else COUNT_DEVICES
    cursor.execute(query, (organization_id,))
    [[count]] = cursor.fetchall()
    return int(count)


def select_devices(
    cursor: Cursor, organization_id: str, is_listed: bool
) -> Generator[tuple[str, str], None, None]:
    """Yield identifier and metadata of the devices, or of those in the file."""
    query = SELECT_LISTED_DEVICES if is_listed else SELECT_DEVICES
    return _stream(cursor, query, organization_id)


SELECT_CHANGES = """
   SELECT line, identifier, devices.device_metadata::text,
          file_devices.device_metadata::text
     FROM file_devices
LEFT JOIN (SELECT identifier, device_metadata
             FROM devices
            WHERE organization_id = %s) AS devices
    USING (identifier)
 ORDER BY number
"""


def select_changes(
    cursor: Cursor, organization_id: str
) -> Generator[tuple[int, str, str | None, str], None, None]:
    """Yield line, identifier, existing and new metadata of each device in the file.

    The existing metadata of a device that does not exist is None.
    """
    return _stream(cursor, SELECT_CHANGES, organization_id)
