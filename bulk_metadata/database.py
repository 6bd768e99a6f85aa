"""The pool: how connections are shared, and what is tried again."""

import os
import random
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, LifoQueue
from typing import TypeVar, TypeVarTuple

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from bulk_metadata import metrics
from bulk_metadata.config import Config
from bulk_metadata.connection import connect_service, reason
from bulk_metadata.record import record
from bulk_metadata.watchdog import Watchdog

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

# What another transaction's end may cure.
CONFLICTS = {"40P01": "deadlock", "40001": "serialization"}
CONFLICT_RETRIES = 5
# Seconds; doubled from retry to retry, and random, so that two do not meet again.
CONFLICT_PAUSE = 0.01

# What leaves a connection of no use: no SQLSTATE at all, since it is broken (psycopg2
# does not always say so); 25006, since it leads to a server that only reads.
USELESS = (None, "25006")


class DatabaseError(Exception):
    """PostgreSQL could not do what it was asked. The message is for the log: it has the
    SQLSTATE and the reason, but never a statement's text, which holds metadata."""

    def __init__(self, reason: str, sqlstate: str | None = None) -> None:
        super().__init__(f"{sqlstate}: {reason}" if sqlstate else reason)
        self.sqlstate = sqlstate


class PoolExhausted(DatabaseError):
    """No connection came free in time."""


class Database:
    """A pool of autocommitting connections: a statement is a transaction.

    psycopg2's own pool raises when it is empty, closes connections it should keep and
    never notices a dead one. This one is a queue of places: whoever holds a place may
    use its connection, which is opened when it is first needed, so after the fork.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        watchdog = Watchdog("PostgreSQL's answer", config.answer_timeout)
        places = [_Place(config, watchdog) for _ in range(config.pool_size)]
        self._places: LifoQueue[_Place] = LifoQueue()
        for place in places:
            self._places.put(place)
        # Connections are closed with the pool, which mostly is with the process.
        weakref.finalize(self, _close_all, places)

    def run(
        self,
        query: Callable[[Cursor, *Arguments], Result],
        *arguments: *Arguments,
        pool_timeout: float | None = None,
    ) -> Result:
        """Return ``query(cursor, *arguments)``.

        ``query`` must be one statement that is safe to repeat: it runs again on a new
        connection if the pool's one breaks, under it or before it, and after a conflict
        with another transaction. Raises DatabaseError for whatever PostgreSQL cannot
        do, and PoolExhausted when no connection comes free in ``pool_timeout`` seconds,
        POOL_TIMEOUT unless given.
        """
        with self._place(pool_timeout or self._config.pool_timeout) as place:
            start = time.perf_counter()
            try:
                return _persist(place, query, arguments, self._config.lock_timeout)
            except psycopg2.Error as error:
                raise DatabaseError(reason(error), error.pgcode) from None
            finally:
                record.database_seconds += time.perf_counter() - start

    @contextmanager
    def _place(self, timeout: float) -> Iterator["_Place"]:
        try:
            place = self._places.get_nowait()
        except Empty:
            place = self._wait(timeout)
        metrics.POOL_IN_USE.inc()
        try:
            yield place
        finally:
            metrics.POOL_IN_USE.dec()
            self._places.put(place)

    def _wait(self, timeout: float) -> "_Place":
        with metrics.POOL_WAITING.track_inprogress():
            try:
                return self._places.get(timeout=timeout)
            except Empty:
                metrics.POOL_TIMEOUTS.inc()
                raise PoolExhausted("all connections stayed in use") from None


class _Place:
    """Room for one connection."""

    def __init__(self, config: Config, watchdog: Watchdog) -> None:
        self._config = config
        self._watchdog = watchdog
        self._connection: Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._socket.close()

    def execute(
        self,
        query: Callable[[Cursor, *Arguments], Result],
        arguments: tuple[*Arguments],
    ) -> Result:
        connection = self._open()
        with self._watchdog.watch(self._socket), connection.cursor() as cursor:
            return query(cursor, *arguments)

    def _open(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self.close()
            connection = connect_service(self._config)
            # A handle of our own on its socket: libpq may close its one at any time,
            # and the number would soon stand for somebody else's.
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
            self._connection = connection
        return self._connection


def _close_all(places: Iterable[_Place]) -> None:
    for place in places:
        place.close()


def _persist(
    place: _Place,
    query: Callable[[Cursor, *Arguments], Result],
    arguments: tuple[*Arguments],
    patience: float,
) -> Result:
    """Return what the query returns, once nothing passing stands in its way. Nothing is
    tried again after ``patience`` seconds."""
    end = time.monotonic() + patience
    conflicts = 0
    while True:
        was_open = place.is_open
        try:
            return place.execute(query, arguments)
        except psycopg2.Error as error:
            if error.pgcode in USELESS:
                place.close()
            if time.monotonic() > end:
                raise
            if was_open and not place.is_open:
                _count_retry("connection")
                continue  # the next one is new, and tried once
            if error.pgcode not in CONFLICTS or conflicts == CONFLICT_RETRIES:
                raise
            _count_retry(CONFLICTS[error.pgcode])
        conflicts += 1
        # S311: the pause needs no secret randomness.
        time.sleep(random.uniform(0, CONFLICT_PAUSE * 2**conflicts))  # noqa: S311


def _count_retry(cause: str) -> None:
    record.retries += 1
    metrics.RETRIES.labels(cause).inc()
