"""Step 1: the ``x-api-key`` header becomes the organization the caller acts for."""

from bulk_metadata.api_key import digest, is_well_formed
from bulk_metadata.database import Database
from bulk_metadata.errors import ApiError
from bulk_metadata.queries import select_organization_id


def authenticate(key: str | None, database: Database) -> str:
    """Return the id of the organization that ``key`` belongs to.

    Raises ApiError 401 for every key that does not work, without saying why. Keys are
    never cached: one that is revoked stops working at once.
    """
    if key is not None and is_well_formed(key):
        organization_id = database.run(select_organization_id, digest(key))
        if organization_id is not None:
            return organization_id
    raise ApiError(401, "Invalid or missing API key")
