"""The journal: what a run has done so far, so that it can go on after any end.

An SQLite database, since that is what survives being killed at any moment. What is not
in it is sent again, which is safe: a call can be repeated.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bulk_metadata.files.device import Device, Problem

# Survives whole when the process is killed, and but for the last moments when the
# machine is; and needs no sync to disk for each call.
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

# Each device whose identifier stands before it, and the first line where it does. CROSS
# keeps SQLite to this order of the tables: in another it takes hours for many repeats.
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

SELECT_OUTCOMES = "SELECT number, status FROM outcomes"

# What sending a device again would not change. What was refused may be taken later,
# under another limit for instance.
FINAL = ("updated", "would_update", "not_found", "invalid")


class JournalError(Exception):
    """The journal is not for this run; the message says why, and what to do."""


class Result(NamedTuple):
    """What became of a device."""

    line: int
    identifier: str
    device_id: str
    status: str


class Outcome(NamedTuple):
    """The same, for the device of this number."""

    number: int
    device_id: str
    status: str


class Journal:
    """An open journal, which no other run can open meanwhile.

    All its methods raise sqlite3.Error when the disk does not do what it should.
    """

    def __init__(self, path: Path, facts: Mapping[str, str], *, resume: bool) -> None:
        """Open the journal at ``path``, or begin it.

        ``facts`` names what is pushed, and where: a run is resumed only if they are
        still the same. Raises JournalError if this run must not begin, or not go on.
        """
        self.path = path
        if resume and not path.exists():
            raise JournalError(f"There is nothing to resume: {path} does not exist.")
        # Whoever has it keeps it: waiting for it makes no sense.
        self._connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            self._connection.executescript(SETTINGS + TABLES)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise JournalError(f"{path} is in use: another run goes on.") from None
        known = dict(self._rows("SELECT name, value FROM facts"))
        if not resume and not self.is_empty():
            raise JournalError(
                f"{path} is the journal of a run that was not finished. Go on with it "
                "with --resume, or delete it to begin anew."
            )
        if resume and known:
            self._compare(known, facts)
        else:
            self._begin(facts)
        #: Whether the file was checked, so that all its devices are known.
        self.is_checked = known.get("checked") == "true" and resume

    def is_empty(self) -> bool:
        """Tell whether nothing has become of any device yet."""
        return self._rows("SELECT 1 FROM outcomes LIMIT 1").fetchone() is None

    def _rows(self, query: str, *arguments: object) -> sqlite3.Cursor:
        return self._connection.execute(query, arguments)

    def _compare(self, known: Mapping[str, str], facts: Mapping[str, str]) -> None:
        for name, value in facts.items():
            if known[name] != value:
                raise JournalError(
                    f"{self.path} is the journal of another run: {name} has changed."
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
        """Enter what is to be listed; nothing of it if anything is raised."""
        with self._transaction():
            self._rows("DELETE FROM devices")
            yield
            self._rows("INSERT INTO facts VALUES ('checked', 'true')")
        self.is_checked = True

    def list(self, devices: Iterable[Device | Problem]) -> None:
        """Note that there are these devices."""
        self._many(
            "INSERT OR IGNORE INTO devices VALUES (?, ?, ?)",
            ((device.number, device.line, device.identifier) for device in devices),
        )

    def repeats(self) -> Iterator[Problem]:
        """Yield each device whose identifier another one has before it."""
        for number, line, identifier, first in self._rows(SELECT_REPEATS):
            reason = f"the same identifier as on line {first}"
            yield Problem(number, line, identifier, reason)

    def record(
        self, devices: Iterable[Device | Problem], outcomes: Iterable[Outcome]
    ) -> None:
        """Note what became of ``devices``, all of it or nothing."""
        with self._transaction():
            if not self.is_checked:
                self.list(devices)
            self._many("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)", outcomes)

    def settled(self) -> bytearray:
        """Return 1 for each number of a device that need not be sent any more, and 0
        for others; a byte each, so that millions fit into memory."""
        [last] = self._rows("SELECT coalesce(max(number), 0) FROM outcomes").fetchone()
        settled = bytearray(last + 1)
        for number, status in self._rows(SELECT_OUTCOMES):
            settled[number] = status in FINAL
        return settled

    def counts(self) -> dict[str, int]:
        """Return how many of the known devices have which status."""
        return dict(self._rows(SELECT_COUNTS))

    def results(self) -> Iterator[Result]:
        """Yield what became of each known device, in the order of the file."""
        yield from map(Result._make, self._rows(SELECT_RESULTS))

    def close(self, *, delete: bool) -> None:
        """Close it; ``delete`` it if there is nothing to go on with."""
        self._connection.close()
        if delete:
            self.path.unlink()
