"""The connection pool, and what happens if PostgreSQL does not respond.

Each wait has a timeout, shorter than the timeout of the wait that encloses it. If a
timeout expires, the client gets a 500 and the log contains the reason.

    wait for                     timeout                 enforced by
    a pooled connection          POOL_TIMEOUT, 2 s       the pool, in this module
    a connection to one address  CONNECT_TIMEOUT, 2 s    libpq (connection.py)
    acknowledgement of data      CONNECT_TIMEOUT, 2 s    TCP (connection.py)
    a locked device              LOCK_TIMEOUT, 4 s       PostgreSQL (lock_timeout)
    the start of an update       ANSWER_TIMEOUT          PostgreSQL (queries.py)
                                 - STATEMENT_TIMEOUT, 2 s
    a statement                  STATEMENT_TIMEOUT, 6 s  PostgreSQL (statement_timeout)
    any response of PostgreSQL   ANSWER_TIMEOUT, 8 s     core/deadline.py: shuts down
                                                         the socket, so that libpq fails

REQUEST_TIMEOUT limits reading a request and writing a response, in server/. It does not
limit these waits, so the service never disconnects a client during its update.

If a connection breaks, the query is retried once on a new one (retry.py). Retries start
within LOCK_TIMEOUT. With the default timeouts, a request gets its response within 15 s
if there is one fault. /readyz responds within a second.
"""

import time
import weakref
from collections.abc import Callable, Iterable
from queue import Empty, LifoQueue
from typing import TypeVar, TypeVarTuple

import psycopg2
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.core.deadline import Watchdog
from bulk_metadata.db.connection import PooledConnection, reason
from bulk_metadata.db.retry import run_with_retries
from bulk_metadata.db.url import parse_url
from bulk_metadata.telemetry import metrics
from bulk_metadata.telemetry.context import context

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


class DatabaseError(Exception):
    """A query failed. The message is for the log: it contains the SQLSTATE and the
    reason, but never the statement, which contains metadata."""

    def __init__(self, reason: str, sqlstate: str | None = None) -> None:
        super().__init__(f"{sqlstate}: {reason}" if sqlstate else reason)
        self.sqlstate = sqlstate


class PoolTimeoutError(DatabaseError):
    """No pooled connection became available in time."""


class Database:
    """A pool of connections in autocommit mode: each statement is a transaction.

    The pool of psycopg2 raises an error when it is empty, closes idle connections and
    does not detect broken ones. This pool waits. Its connections open when they are
    first used, after gunicorn has forked.
    """

    def __init__(self, config: Config) -> None:
        """Create the pool, without connecting. Raises ConfigError."""
        parse_url(config.database_url)
        self._config = config
        watchdog = Watchdog(config.answer_timeout)
        connections = [
            PooledConnection(config, watchdog) for _ in range(config.pool_size)
        ]
        # The connection that was used last is used first, so that few are open.
        self._idle: LifoQueue[PooledConnection] = LifoQueue()
        for connection in connections:
            self._idle.put(connection)
        weakref.finalize(self, _close_all, connections)

    def run(
        self,
        query: Callable[[Cursor, *Arguments], Result],
        *arguments: *Arguments,
        pool_timeout: float | None = None,
    ) -> Result:
        """Return ``query(cursor, *arguments)``.

        ``query`` must be a single transaction, and end it if it has several statements.
        It must be safe to repeat: it is retried after a broken connection or a conflict
        with another transaction. Raises DatabaseError if it fails, and PoolTimeoutError
        if no connection becomes available within ``pool_timeout`` seconds (default:
        POOL_TIMEOUT).
        """
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = self._wait(pool_timeout or self._config.pool_timeout)
        metrics.POOL_IN_USE.inc()
        start = time.perf_counter()
        try:
            return run_with_retries(
                connection, query, arguments, self._config.lock_timeout
            )
        except psycopg2.Error as error:
            raise DatabaseError(reason(error), error.pgcode) from None
        finally:
            context.database_seconds += time.perf_counter() - start
            metrics.POOL_IN_USE.dec()
            self._idle.put(connection)

    def _wait(self, timeout: float) -> PooledConnection:
        with metrics.POOL_WAITING.track_inprogress():
            try:
                return self._idle.get(timeout=timeout)
            except Empty:
                metrics.POOL_TIMEOUTS.inc()
                raise PoolTimeoutError("all connections are in use") from None


def _close_all(connections: Iterable[PooledConnection]) -> None:
    for connection in connections:
        connection.close()
