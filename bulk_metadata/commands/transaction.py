"""The blueprint of the commands, and the database transactions of a command."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
from flask import Blueprint, current_app

from bulk_metadata.commands.output import Command
from bulk_metadata.db.transaction import (
    ConflictError,
    Cursor,
    OperatorError,
    transaction,
)

Result = TypeVar("Result")

blueprint = Blueprint("commands", __name__, cli_group=None)
blueprint.cli.command_class = Command

ATTEMPTS = 3
# Seconds between attempts. Requests that queued behind the first one complete.
PAUSE = 1


class LockError(click.ClickException):
    """Another session holds a lock."""


@contextmanager
def session(*, index_plans: bool = False) -> Iterator[Cursor]:
    """Yield a cursor in a transaction on DATABASE_URL. Raises click.ClickException
    instead of OperatorError.

    ``index_plans`` pins the query plans like the plan of the service.
    """
    config = current_app.extensions["config"]
    try:
        with transaction(config, index_plans=index_plans) as cursor:
            yield cursor
    except ConflictError as error:
        raise LockError(str(error)) from None
    except OperatorError as error:
        raise click.ClickException(str(error)) from None


def change_schema(change: Callable[[Cursor], Result]) -> Result:
    """Run ``change`` in a transaction and return its result. Retry it if a table lock
    times out. Raises click.ClickException if the last attempt fails."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with session() as cursor:
                return change(cursor)
        except LockError as error:
            conflict = error.message
        if attempt < ATTEMPTS:
            time.sleep(PAUSE)
    raise click.ClickException(
        f"Could not lock the tables in {ATTEMPTS} attempts; the last error was: "
        f"{conflict}. The database is unchanged. Retry when no long transaction and no "
        "VACUUM holds a lock on the tables. pg_locks lists the sessions that hold them."
    )
