"""The pool: how connections are shared."""

import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, LifoQueue
from typing import TypeVar, TypeVarTuple

import psycopg2
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.core.deadline import Watchdog
from bulk_metadata.db.connection import reason
from bulk_metadata.db.retry import Place, persist
from bulk_metadata.telemetry import metrics
from bulk_metadata.telemetry.context import record

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


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
        places = [Place(config, watchdog) for _ in range(config.pool_size)]
        self._places: LifoQueue[Place] = LifoQueue()
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

        ``query`` must be one transaction, and if it is not one statement end it itself;
        and be safe to repeat: it runs again on a new connection if the pool's one
        breaks, under it or before it, and after a conflict with another transaction.
        Raises DatabaseError for whatever PostgreSQL cannot do, and PoolExhausted when
        no connection comes free in ``pool_timeout`` seconds, POOL_TIMEOUT unless given.
        """
        with self._place(pool_timeout or self._config.pool_timeout) as place:
            start = time.perf_counter()
            try:
                return persist(place, query, arguments, self._config.lock_timeout)
            except psycopg2.Error as error:
                raise DatabaseError(reason(error), error.pgcode) from None
            finally:
                record.database_seconds += time.perf_counter() - start

    @contextmanager
    def _place(self, timeout: float) -> Iterator[Place]:
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

    def _wait(self, timeout: float) -> Place:
        with metrics.POOL_WAITING.track_inprogress():
            try:
                return self._places.get(timeout=timeout)
            except Empty:
                metrics.POOL_TIMEOUTS.inc()
                raise PoolExhausted("all connections stayed in use") from None


def _close_all(places: Iterable[Place]) -> None:
    for place in places:
        place.close()
