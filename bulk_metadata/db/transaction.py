"""The transaction of an operator command, with PostgreSQL errors as plain messages."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from psycopg2.errors import (
    DeadlockDetected,
    InsufficientPrivilege,
    InternalError_,
    LockNotAvailable,
    UndefinedTable,
)
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect, reason

__all__ = ["ConflictError", "Cursor", "OperatorError", "transaction"]


class OperatorError(Exception):
    """A command failed. The message tells the operator the reason and the remedy."""


class ConflictError(OperatorError):
    """Another session holds a lock. The command may succeed later."""


@contextmanager
def transaction(config: Config) -> Iterator[Cursor]:
    """Yield a cursor in a transaction, which is rolled back if an exception is raised.

    Raises OperatorError for each PostgreSQL error.
    """
    try:
        connection = connect(
            config.database_url, config.connect_timeout, "bulk-metadata command"
        )
    except psycopg2.OperationalError as error:
        raise OperatorError(
            f"Cannot connect to the database in DATABASE_URL: {reason(error)}"
        ) from None
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
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
