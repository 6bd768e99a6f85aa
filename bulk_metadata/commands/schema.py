"""The database's tables: ``flask init-db``."""

import time
from pathlib import Path

import click
from flask.cli import with_appcontext
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.transaction import Conflict, session

SCHEMA_FILE = Path(__file__).parents[2] / "schema.sql"

# Writers may have to queue behind a change that waits for its lock. 2 seconds are less
# than the service's LOCK_TIMEOUT, so no call fails for it, and more than PostgreSQL's
# deadlock_timeout of 1, after which autovacuum gives way to whoever waits.
#
# One at a time: of two that make the same table at once, one would fail. The lock's
# number stands for nothing.
ONLINE = """
SET LOCAL lock_timeout = '2s';
SELECT pg_advisory_xact_lock(1651862635);
"""

ATTEMPTS = 3
# Seconds between two, for those who queued behind the first.
PAUSE = 1


@click.command("init-db")
@with_appcontext
def init_db_command() -> None:
    """Create the tables and the service's role, or bring them up to date."""
    attempt = 1
    while True:
        try:
            with session() as cursor:
                version = apply_schema(cursor)
                database = cursor.connection.info.dbname
                warnings = cursor.connection.notices
            break
        except Conflict as conflict:
            if attempt == ATTEMPTS:
                raise click.ClickException(
                    f"Another session was in the way {ATTEMPTS} times, the last time "
                    f"with: {conflict}. The database is as it was. Try again when no "
                    "long transaction and no VACUUM holds a lock on the tables; "
                    "pg_locks shows who does."
                ) from None
        time.sleep(PAUSE)
        attempt += 1
    for notice in warnings:
        if notice.startswith("WARNING:"):
            click.echo(notice.splitlines()[0], err=True)
    click.echo(f'The database "{database}" is ready (PostgreSQL {version}).')


def apply_schema(cursor: Cursor) -> str:
    """Apply schema.sql, all of it or nothing, and return PostgreSQL's version.

    In the caller's transaction every later wait for a lock is limited, too. Raises
    click.ClickException if the database cannot hold every identifier, and
    psycopg2.errors.LockNotAvailable if a lock is not to be had in time.
    """
    cursor.execute("SELECT current_setting('server_encoding')")
    [[encoding]] = cursor.fetchall()
    if encoding != "UTF8":
        raise click.ClickException(
            f"The database's encoding is {encoding}. Identifiers can be any text: "
            "create a database with ENCODING 'UTF8'."
        )
    # Sent as one: a transaction also where the connection commits by itself.
    cursor.execute(ONLINE + SCHEMA_FILE.read_text())
    cursor.execute("SELECT current_setting('server_version')")
    [[version]] = cursor.fetchall()
    return str(version)
