"""The database of the demo: schema, organization, devices and API key."""

from pathlib import Path

from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest
from bulk_metadata.db.accounts import (
    create_key,
    create_organization,
    find_organization,
)
from bulk_metadata.db.devices import (
    copy_file_devices,
    create_file_devices,
    insert_devices,
)
from bulk_metadata.db.history.settings import enable_history
from bulk_metadata.db.queries import select_api_key
from bulk_metadata.db.schema import apply_schema
from bulk_metadata.db.transaction import Cursor, OperatorError, transaction

# The devices of the example in the README, and two more. SN-UNKNOWN does not exist.
DEVICES = ["SN-A100", "SN-B200", "SN-C300", "SN-D400"]


def prepare(config: Config, key_file: Path, *, with_history: bool) -> str:
    """Create the missing parts of the database and return the API key, which is stored
    in ``key_file``."""
    with transaction(config) as cursor:
        apply_schema(cursor)
        if with_history:
            enable_history(cursor)
        organization_id = create_demo_organization(cursor)
        key = key_file.read_text() if key_file.exists() else ""
        api_key = select_api_key(cursor, digest(key))
        if api_key is None or api_key.organization_id != organization_id:
            key = create_key(cursor, organization_id, "make run").text
            key_file.parent.mkdir(parents=True, exist_ok=True)
            key_file.touch(mode=0o600)
            key_file.write_text(key)
    return key


def create_demo_organization(cursor: Cursor) -> str:
    """Create the missing parts of the organization "demo" and return its ID."""
    try:
        organization_id = find_organization(cursor, "demo")
    except OperatorError:
        organization_id = create_organization(cursor, "demo")
    create_file_devices(cursor)
    rows = [(number, number, name, b"{}") for number, name in enumerate(DEVICES)]
    copy_file_devices(cursor, rows)
    insert_devices(cursor, organization_id)
    return organization_id
