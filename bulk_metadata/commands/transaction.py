"""What every command needs: a transaction, and a sentence for what goes wrong in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
import psycopg2
from flask import current_app
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


class Conflict(click.ClickException):
    """Another session was in the way: the same may succeed once it has ended."""


@contextmanager
def session() -> Iterator[Cursor]:
    """Give a cursor to the database of the application's settings, as transaction()."""
    with transaction(current_app.extensions["config"]) as cursor:
        yield cursor


@contextmanager
def transaction(config: Config) -> Iterator[Cursor]:
    """Give a cursor in a transaction, committed unless something is raised.

    Raises click.ClickException, which ends a command with its sentence, for whatever
    PostgreSQL refuses; Conflict among them.
    """
    try:
        connection = connect(
            config.database_url, config.connect_timeout, "bulk-metadata command"
        )
    except psycopg2.OperationalError as error:
        raise click.ClickException(
            f"Cannot connect to the database that DATABASE_URL names: {reason(error)}"
        ) from None
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    except UndefinedTable:
        raise click.ClickException(
            "The database has no tables yet. Create them with: flask init-db"
        ) from None
    except InsufficientPrivilege as error:
        raise click.ClickException(
            f"{reason(error)}. Let DATABASE_URL name the database's owner, "
            "not the service's role; init-db has to be allowed to create roles, too."
        ) from None
    # An internal error: "tuple concurrently updated" is one, of two that alter a role.
    except (LockNotAvailable, DeadlockDetected, InternalError_) as error:
        raise Conflict(reason(error)) from None
    except psycopg2.Error as error:
        raise click.ClickException(reason(error)) from None
    except UnicodeEncodeError:
        raise click.ClickException("An argument is not UTF-8.") from None
    finally:
        connection.close()
