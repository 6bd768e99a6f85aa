"""A connection to PostgreSQL: its parameters, settings and timeouts."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar, TypeVarTuple

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.core.deadline import Watchdog
from bulk_metadata.db.prepared import ServiceConnection
from bulk_metadata.db.queries import PREPARED
from bulk_metadata.db.url import parse_url

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")
AnyConnection = TypeVar("AnyConnection", bound=Connection)

# The statements of a request find rows by key. By default, the planner scans the whole
# fleet from about 100,000 devices on, and locks rows in the order of its scan, which is
# slow and allows deadlocks. Without the costs of 0, it may read all devices of the
# organization for each row of a request, because it underestimates their number.
PLAN = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "random_page_cost": "0",
    "cpu_operator_cost": "0",
}

# After a connection breaks, its backend may still receive a statement, even after the
# retry has succeeded. The start times exclude a new backend with the same process ID.
# The timeout is in milliseconds.
TERMINATE_PREVIOUS = """
SELECT pg_terminate_backend(previous.pid, 1000)
  FROM pg_stat_activity AS previous
  JOIN pg_stat_activity AS own ON own.pid = pg_backend_pid()
 WHERE previous.pid = %s
   AND previous.usename = own.usename
   AND previous.backend_start < own.backend_start
"""


class PooledConnection:
    """A connection that opens when it is needed, and again after it is closed."""

    def __init__(self, config: Config, watchdog: Watchdog) -> None:
        self._config = config
        self._watchdog = watchdog
        self._connection: ServiceConnection | None = None
        self._backend: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is open, as far as libpq knows."""
        return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        """Close the connection if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._socket.close()

    def execute(
        self,
        query: Callable[[Cursor, *Arguments], Result],
        arguments: tuple[*Arguments],
    ) -> Result:
        """Return ``query(cursor, *arguments)``, limited by the watchdog."""
        connection = self._open()
        with self._watchdog.watch(self._socket), connection.cursor() as cursor:
            return query(cursor, *arguments)

    def _open(self) -> ServiceConnection:
        if self._connection is None or self._connection.closed:
            self.close()
            connection = connect_service(self._config)
            # A duplicate for the watchdog. libpq may close its own file descriptor at
            # any time, and the system would reuse the number.
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
            self._connection = connection
            self._terminate_previous(connection)
            self._prepare(connection)
        return self._connection

    def _prepare(self, connection: ServiceConnection) -> None:
        """Prepare the statements. If this fails, close the connection and raise."""
        try:
            with self._watchdog.watch(self._socket):
                connection.prepare(PREPARED)
        except psycopg2.Error:
            self.close()
            raise

    def _terminate_previous(self, connection: ServiceConnection) -> None:
        """Terminate the backend of the connection that this one replaces, if any."""
        previous, self._backend = self._backend, connection.info.backend_pid
        if previous is not None:
            with (
                self._watchdog.watch(self._socket),
                connection.cursor() as cursor,
                suppress(psycopg2.Error),
            ):
                cursor.execute(TERMINATE_PREVIOUS, (previous,))


def connect_service(config: Config) -> ServiceConnection:
    """Return a connection for requests: in autocommit mode, with a pinned plan and
    timeouts. Raises psycopg2.OperationalError."""
    settings = PLAN | {
        "lock_timeout": f"{config.lock_timeout}s",
        "statement_timeout": f"{config.statement_timeout}s",
    }
    connection = connect(
        ServiceConnection,
        config.database_url,
        config.connect_timeout,
        "bulk-metadata",
        settings,
    )
    connection.autocommit = True
    return connection


def connect(
    factory: type[AnyConnection],
    url: str,
    timeout: int,
    application_name: str,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AnyConnection:
    """Return a connection to the database at ``url``, whose parameters take precedence.

    ``timeout`` is in seconds. ``settings`` are run-time settings of PostgreSQL, added
    to the ``options`` of the URL. Raises psycopg2.OperationalError and ConfigError.
    """
    parameters: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": timeout,
        # Milliseconds for the network to acknowledge data.
        "tcp_user_timeout": 1000 * timeout,
        # Seconds. Firewalls forget connections that are idle for minutes.
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    } | parse_url(url)
    # The URL cannot change the encoding: all text is UTF-8.
    parameters["client_encoding"] = "UTF8"
    options = [f"-c {name}={value}" for name, value in settings.items()]
    parameters["options"] = " ".join([*options, parameters.get("options", "")])
    connection: AnyConnection = psycopg2.connect(
        connection_factory=factory, **parameters
    )
    return connection


def reason(error: psycopg2.Error) -> str:
    """Return the message of PostgreSQL or libpq in one line, without the excerpt of the
    statement that psycopg2 adds, because it may contain metadata."""
    return " ".join((error.diag.message_primary or str(error)).split())
