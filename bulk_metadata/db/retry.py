"""A place in the pool: room for one connection, and what is tried again on it."""

import os
import random
import socket
import time
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.core.deadline import Watchdog
from bulk_metadata.db.connection import connect_service
from bulk_metadata.telemetry import metrics
from bulk_metadata.telemetry.context import record

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


class Place:
    """Room for one connection."""

    def __init__(self, config: Config, watchdog: Watchdog) -> None:
        self._config = config
        self._watchdog = watchdog
        self._connection: Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has a connection, as far as is known."""
        return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._socket.close()

    def execute(
        self,
        query: Callable[[Cursor, *Arguments], Result],
        arguments: tuple[*Arguments],
    ) -> Result:
        """Return what ``query`` returns on the connection, opened if need be."""
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


def persist(
    place: Place,
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
