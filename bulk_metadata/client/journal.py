"""The journal: the results of a run so far, so that the run can be resumed.

It is an SQLite database, because SQLite survives a kill at any moment. A result that is
not in the journal is requested again, which is safe: a request can be repeated.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bulk_metadata.files.advice import REPEATED
from bulk_metadata.files.device import Device, Problem, repeats

# A killed process loses no results, and a crash of the machine only the last ones. No
# sync to disk is needed for each request.
SETTINGS = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
"""

TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS devices (
    number INTEGER PRIMARY KEY, line INTEGER NOT NULL, identifier TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    number INTEGER PRIMARY KEY, device_id TEXT NOT NULL, status TEXT NOT NULL);
"""

# Each device with the identifier of an earlier device, and the line of the earlier one.
# CROSS keeps SQLite to this order of the tables: another order takes hours if many
# identifiers are repeated.
SELECT_REPEATS = """
SELECT again.number, again.line, again.identifier, first.line
  FROM devices AS again
 CROSS JOIN (SELECT identifier, min(number) AS number
               FROM devices GROUP BY identifier HAVING count(*) > 1) AS repeated
    ON repeated.identifier = again.identifier AND repeated.number < again.number
 CROSS JOIN devices AS first ON first.number = repeated.number
 ORDER BY again.number
"""

SELECT_RESULTS = """
SELECT line, identifier, coalesce(device_id, ''), coalesce(status, 'not_sent')
  FROM devices LEFT JOIN outcomes USING (number)
 ORDER BY number
"""

SELECT_COUNTS = """
SELECT coalesce(status, 'not_sent'), count(*)
  FROM devices LEFT JOIN outcomes USING (number)
 GROUP BY 1
"""

SELECT_FOUND = """
SELECT identifier, device_id
  FROM devices JOIN outcomes USING (number)
 WHERE device_id <> ''
 LIMIT ?
"""

SELECT_OUTCOMES = "SELECT number, status FROM outcomes"

# Sending a device with one of these statuses again has no effect. A rejected device may
# be accepted later, for example under another limit.
FINAL = ("updated", "would_update", "not_found", "invalid")


class JournalError(Exception):
    """The journal cannot be used for this run. The message names the fix."""


# Line, identifier, ID and status of a device.
Result = tuple[int, str, str, str]


class Outcome(NamedTuple):
    """The result for the device with this number in the file."""

    number: int
    device_id: str
    status: str


class Journal:
    """An open journal, which is locked for other runs.

    All methods raise sqlite3.Error if the disk fails.
    """

    def __init__(
        self,
        path: Path,
        facts: Mapping[str, str],
        *,
        resume: bool,
        key_digest: str = "",
    ) -> None:
        """Open or create the journal at ``path``.

        ``facts`` identifies the upload: a run is resumed only if they are unchanged.
        Raises JournalError if this run cannot begin or resume.
        """
        self.path = path
        if resume and not path.exists():
            raise JournalError(f"There is no run to resume: {path} does not exist.")
        # Do not wait for the lock, because a run holds it until it exits.
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._connection.executescript(SETTINGS + TABLES)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise JournalError(
                f"{path} is locked by another push. Wait until it finishes, or use a "
                "different --results file."
            ) from None
        known = dict(self._rows("SELECT name, value FROM facts"))
        if not resume and not self.is_empty():
            raise JournalError(
                f"{path} belongs to an unfinished run. Continue it with --resume, or "
                "delete the journal to start again."
            )
        is_same = resume and known.items() >= facts.items()
        if not is_same:
            if not self.is_empty():
                self._reject(known, facts)
            self._begin(facts)
        #: The X-Request-ID of all requests of the upload, at most 32 characters.
        self.request_id = self._fact("request ID", f"push-{secrets.token_hex(12)}")
        #: The digest of the API key of the first run, unless it was replaced.
        self.key_digest = self._fact("API key", key_digest)
        #: Whether the file was validated, so that all its devices are listed.
        self.is_checked = is_same and known.get("checked") == "true"

    def replace_key(self, key_digest: str) -> None:
        """Replace the API key of a run that found no device. Its key may belong to
        another organization, so all devices are sent again."""
        with self._transaction():
            self._rows("DELETE FROM outcomes WHERE status = 'not_found'")
            self._rows("UPDATE facts SET value = ? WHERE name = 'API key'", key_digest)
        self.key_digest = key_digest

    def _fact(self, name: str, default: str) -> str:
        """Return a fact. Store ``default`` if it is unknown."""
        self._rows("INSERT OR IGNORE INTO facts VALUES (?, ?)", name, default)
        query = "SELECT value FROM facts WHERE name = ?"
        [value] = self._rows(query, name).fetchone()
        return str(value)

    def is_empty(self) -> bool:
        """Return whether no device has a result."""
        return self._rows("SELECT 1 FROM outcomes LIMIT 1").fetchone() is None

    def _rows(self, query: str, *arguments: object) -> sqlite3.Cursor:
        return self._connection.execute(query, arguments)

    def _reject(self, known: Mapping[str, str], facts: Mapping[str, str]) -> None:
        changed = next(name for name in facts if known.get(name) != facts[name])
        raise JournalError(
            f"{self.path} belongs to another run, which differs in {changed}. To start "
            "again, delete the journal."
        )

    def _begin(self, facts: Mapping[str, str]) -> None:
        with self._transaction():
            self._rows("DELETE FROM devices")
            self._rows("DELETE FROM facts")
            self._many("INSERT INTO facts VALUES (?, ?)", facts.items())

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._connection.executemany(statement, rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection:
            self._rows("BEGIN")
            yield

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Store the listed devices, or none of them if an exception is raised."""
        with self._transaction():
            self._rows("DELETE FROM devices")
            yield
            self._rows("INSERT INTO facts VALUES ('checked', 'true')")
        self.is_checked = True

    def list(self, devices: Iterable[Device | Problem]) -> None:
        """Add the devices of the file."""
        self._many(
            "INSERT OR IGNORE INTO devices VALUES (?, ?, ?)",
            ((device.number, device.line, device.identifier) for device in devices),
        )

    def repeats(self) -> Iterator[Problem]:
        """Yield each device with the identifier of an earlier device."""
        for number, line, identifier, first in self._rows(SELECT_REPEATS):
            yield Problem(number, line, identifier, repeats(first), REPEATED)

    def record(
        self, devices: Iterable[Device | Problem], outcomes: Iterable[Outcome]
    ) -> None:
        """Store the outcomes of ``devices`` atomically."""
        with self._transaction():
            if not self.is_checked:
                self.list(devices)
            self._many("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", outcomes)

    def found(self, limit: int) -> dict[str, str]:
        """Return identifier and ID of up to ``limit`` devices that were found."""
        return dict(self._rows(SELECT_FOUND, limit))

    def settled(self) -> bytearray:
        """Return 1 for each number of a device with a final status, and 0 for others. A
        byte per device, so that millions fit into memory."""
        [last] = self._rows("SELECT coalesce(max(number), 0) FROM outcomes").fetchone()
        settled = bytearray(last + 1)
        for number, status in self._rows(SELECT_OUTCOMES):
            settled[number] = status in FINAL
        return settled

    def counts(self) -> dict[str, int]:
        """Return the number of listed devices with each status."""
        return dict(self._rows(SELECT_COUNTS))

    def results(self) -> Iterator[Result]:
        """Return the result of each listed device, in the order of the file."""
        return self._rows(SELECT_RESULTS)

    def close(self, *, delete: bool) -> None:
        """Close the journal. ``delete`` it if no run can be resumed from it."""
        self._connection.close()
        if delete:
            self.path.unlink(missing_ok=True)
