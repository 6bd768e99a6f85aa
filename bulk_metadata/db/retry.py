"""Retries of transient errors: broken connections, read-only servers and conflicts."""

import random
import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import psycopg2
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.connection import PooledConnection
from bulk_metadata.telemetry import metrics
from bulk_metadata.telemetry.context import context

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

# SQLSTATEs of conflicts with another transaction, and their metric labels.
CONFLICTS = {"40P01": "deadlock", "40001": "serialization"}
CONFLICT_RETRIES = 5
# Seconds. The maximum doubles with each retry, and the backoff is random, so that two
# transactions do not collide again.
CONFLICT_BACKOFF = 0.01

# SQLSTATEs after which the connection is closed: None if it is broken, which psycopg2
# does not always notice, and 25006 if the server is read-only.
BROKEN_CONNECTION = (None, "25006")


def run_with_retries(
    connection: PooledConnection,
    query: Callable[[Cursor, *Arguments], Result],
    arguments: tuple[*Arguments],
    timeout: float,
) -> Result:
    """Run the query and retry transient errors. Return its result.

    Retries start within ``timeout`` seconds. Raises psycopg2.Error.
    """
    end = time.monotonic() + timeout
    conflicts = 0
    while True:
        was_open = connection.is_open
        try:
            return connection.execute(query, arguments)
        except psycopg2.Error as error:
            if error.pgcode in BROKEN_CONNECTION:
                connection.close()
            if time.monotonic() > end:
                raise
            if was_open and not connection.is_open:
                _count_retry("connection")
                continue  # A new connection is tried once.
            if error.pgcode not in CONFLICTS or conflicts == CONFLICT_RETRIES:
                raise
            _count_retry(CONFLICTS[error.pgcode])
        conflicts += 1
        # S311: the backoff needs no cryptographic randomness.
        time.sleep(random.uniform(0, CONFLICT_BACKOFF * 2**conflicts))  # noqa: S311


def _count_retry(cause: str) -> None:
    context.retries += 1
    metrics.RETRIES.labels(cause).inc()
