"""Step 1: the ``x-api-key`` header becomes the organization the caller acts for."""

from bulk_metadata.core.api_key import digest, is_well_formed
from bulk_metadata.core.errors import ApiError
from bulk_metadata.db.pool import Database
from bulk_metadata.db.queries import Caller, select_caller


def authenticate(key: str | None, database: Database) -> Caller:
    """Return whose key ``key`` is.

    Raises ApiError 401 for every key that does not work, without saying why. Keys are
    never cached: one that is revoked stops working at once.
    """
    if key is not None and is_well_formed(key):
        caller = database.run(select_caller, digest(key))
        if caller is not None:
            return caller
    raise ApiError(401, "Invalid or missing API key")
