"""The database's tables: ``flask init-db``."""

from pathlib import Path

import click
from flask.cli import with_appcontext
from psycopg2.extensions import cursor as Cursor

from bulk_metadata.commands.session import session

SCHEMA_FILE = Path(__file__).parents[2] / "schema.sql"


@click.command("init-db")
@with_appcontext
def init_db_command() -> None:
    """Create the tables and the service's role, where they are missing."""
    with session() as cursor:
        version = apply_schema(cursor)
        database = cursor.connection.info.dbname
    click.echo(f'The database "{database}" is ready (PostgreSQL {version}).')


def apply_schema(cursor: Cursor) -> str:
    """Apply schema.sql and return PostgreSQL's version.

    Raises click.ClickException if the database cannot hold every identifier.
    """
    cursor.execute("SELECT current_setting('server_encoding')")
    [[encoding]] = cursor.fetchall()
    if encoding != "UTF8":
        raise click.ClickException(
            f"The database's encoding is {encoding}. Identifiers can be any text: "
            "create a database with ENCODING 'UTF8'."
        )
    cursor.execute(SCHEMA_FILE.read_text())
    cursor.execute("SELECT current_setting('server_version')")
    [[version]] = cursor.fetchall()
    return str(version)
