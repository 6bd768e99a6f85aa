"""The transaction of an operator command, with PostgreSQL errors as plain messages."""

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.errors import (
    DataError,
    DeadlockDetected,
    DivisionByZero,
    InsufficientPrivilege,
    InternalError_,
    LockNotAvailable,
    UndefinedTable,
)
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.connection import PLAN, connect, reason
from bulk_metadata.db.server_clock import ServerClock

__all__ = ["ConflictError", "Cursor", "OperatorError", "transaction"]

# The plans of the service. The lock timeout is for the steps of an undo. Citus applies
# the settings of a transaction on the worker nodes, but not those of a connection.
INDEX_PLANS = PLAN | {"lock_timeout": "500ms"}
SET_INDEX_PLANS = "SET LOCAL citus.propagate_set_commands = 'local';" + ";".join(
    f"SET LOCAL {name} = '{value}'" for name, value in INDEX_PLANS.items()
)

# Seconds for the COMMIT to reach PostgreSQL. If the operator interrupts the command,
# the transaction cannot take effect later.
COMMIT_WITHIN = 2
# Seconds for the COMMIT itself, which triggers may delay.
COMMIT_TIMEOUT = 600

# Times of the commands, as in the access log.
UTC = {"timezone": "UTC"}

TIME_UNIT = re.compile(r"[A-Za-z:]")


class OperatorError(Exception):
    """A command failed. The message contains the reason and the fix."""


class ConflictError(OperatorError):
    """Another session holds a lock. The command may succeed later."""


class CommandConnection(Connection):
    """A connection whose commits have no effect if PostgreSQL receives them late."""

    clock: ServerClock

    def commit(self) -> None:
        """Commit the transaction. Raises DivisionByZero if this is too late.

        Ctrl-C cannot stop a COMMIT. It takes effect when ``raise_interrupt`` is called,
        after the command has recorded the changes.
        """
        guard = self.clock.guard(COMMIT_WITHIN, COMMIT_TIMEOUT)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with self.cursor() as cursor:
                # psycopg2 still expects a transaction. It commits the empty one.
                cursor.execute(f"{guard}COMMIT; BEGIN")
            super().commit()
        finally:
            if signal.SIGINT not in signal.sigpending():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt if the operator has pressed Ctrl-C during a COMMIT."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def transaction(config: Config, *, index_plans: bool = False) -> Iterator[Cursor]:
    """Yield a cursor in a transaction, which is rolled back if an exception is raised.

    ``index_plans`` pins the query plans like the plan of the service, and limits waits
    for a lock. Raises OperatorError for each PostgreSQL error.
    """
    raise_interrupt()
    try:
        connection = connect(
            CommandConnection,
            config.database_url,
            config.connect_timeout,
            "bulk-metadata command",
            UTC,
        )
    except psycopg2.OperationalError as error:
        raise OperatorError(
            f"Cannot connect to the database in DATABASE_URL: {reason(error)}"
        ) from None
    try:
        with connection, connection.cursor() as cursor:
            connection.clock = ServerClock.read(cursor)
            if index_plans:
                cursor.execute(SET_INDEX_PLANS)
            yield cursor
    except DivisionByZero:
        raise OperatorError(
            "The COMMIT reached PostgreSQL too late. The database is unchanged."
        ) from None
    except UndefinedTable:
        raise OperatorError(
            "The database has no tables. Create them with: flask init-db"
        ) from None
    except InsufficientPrivilege as error:
        raise OperatorError(
            f"{reason(error)}. Set DATABASE_URL to connect as the owner of the "
            "database, not as the role of the service. init-db also requires the "
            "CREATEROLE privilege."
        ) from None
    # PostgreSQL reports two concurrent ALTER ROLE statements as an internal error.
    except (LockNotAvailable, DeadlockDetected, InternalError_) as error:
        raise ConflictError(reason(error)) from None
    except psycopg2.Error as error:
        raise OperatorError(reason(error)) from None
    except UnicodeEncodeError:
        raise OperatorError("An argument is not valid UTF-8.") from None
    finally:
        connection.close()


CHECK_SPAN = """
SELECT now() + %(span)s::interval > now() AND now() - %(span)s::interval < now()
"""


def check_span(cursor: Cursor, option: str, span: str) -> None:
    """Raise OperatorError if ``span`` is not a positive PostgreSQL interval."""
    try:
        cursor.execute(CHECK_SPAN, {"span": span})
        [[is_positive]] = cursor.fetchall()
    except DataError:
        is_positive = False
    # PostgreSQL reads a number without a unit as seconds, which is rarely intended.
    if not is_positive or not TIME_UNIT.search(span):
        raise OperatorError(
            f"{option} must be a positive time span, for example '90 days' or "
            f"'12 hours', not '{span}'."
        )


CHECK_TIME = "SELECT %(time)s::timestamptz <= now(), (%(time)s::timestamptz)::text"


def past_time(cursor: Cursor, option: str, time: str) -> str:
    """Return the time in ISO 8601. Raises OperatorError if it is invalid or in the
    future."""
    try:
        cursor.execute(CHECK_TIME, {"time": time})
        [[is_past, text]] = cursor.fetchall()
    except DataError:
        is_past = False
    if not is_past:
        raise OperatorError(
            f"{option} must be a time in the past, for example '2026-11-26 14:30' or "
            f"'yesterday', not '{time}'."
        )
    return str(text)
