"""The database schema: ``flask init-db``."""

from bulk_metadata.commands.output import report
from bulk_metadata.commands.transaction import blueprint, change_schema
from bulk_metadata.db.schema import apply_schema


@blueprint.cli.command("init-db")
def init_db_command() -> None:
    """Create or upgrade the database schema.

    The schema consists of the tables and the role of the service. This command is safe
    to repeat.
    """
    schema = change_schema(apply_schema)
    for warning in schema.warnings:
        report(warning, err=True)
    report(f'The database "{schema.database}" is ready (PostgreSQL {schema.server}).')
