"""The operators' commands, ``flask init-db`` and the others, by what they work on."""

from flask import Flask

from bulk_metadata.commands.devices import import_devices_command
from bulk_metadata.commands.keys import (
    create_key_command,
    list_keys_command,
    revoke_key_command,
)
from bulk_metadata.commands.organizations import create_organization_command
from bulk_metadata.commands.schema import init_db_command


def register_commands(app: Flask) -> None:
    """Add the commands to ``flask``."""
    for command in (
        init_db_command,
        create_organization_command,
        create_key_command,
        list_keys_command,
        revoke_key_command,
        import_devices_command,
    ):
        app.cli.add_command(command)
