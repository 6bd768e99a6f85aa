"""The operator commands, ``flask init-db`` and others, one module per subject."""

from bulk_metadata.commands import (
    devices,
    diff,
    history,
    keys,
    organizations,
    requests,
    schema,
    undo,
)
from bulk_metadata.commands.transaction import blueprint

__all__ = [
    "blueprint",
    "devices",
    "diff",
    "history",
    "keys",
    "organizations",
    "requests",
    "schema",
    "undo",
]
