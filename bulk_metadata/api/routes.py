"""The endpoint: one request, from the API key to the response."""

import time
from functools import partial

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from bulk_metadata.api.request import (
    is_dry_run,
    parse_body,
    read_body,
    require_connected,
)
from bulk_metadata.api.response import build_response
from bulk_metadata.api.validation import validate
from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest, is_well_formed
from bulk_metadata.core.errors import INVALID_API_KEY, ApiError
from bulk_metadata.core.limits import ENDPOINT
from bulk_metadata.db.pool import Database
from bulk_metadata.db.queries import (
    ApiKey,
    dry_run_update,
    select_api_key,
    update_metadata,
)
from bulk_metadata.telemetry.context import context

blueprint = Blueprint("bulk_metadata", __name__)

# Seconds. If the body takes longer to arrive, the API key is looked up again, because
# it may have been revoked since then.
MAX_KEY_AGE = 1


@blueprint.post(ENDPOINT, provide_automatic_options=False)
def replace_bulk_metadata() -> ResponseReturnValue:
    """Replace the metadata of the devices in the body by one statement. A dry run is
    rolled back."""
    database: Database = current_app.extensions["database"]
    config: Config = current_app.extensions["config"]

    key = request.headers.get("x-api-key")
    api_key = authenticate(key, database)
    context.organization_id, context.key_id = api_key.organization_id, api_key.id
    context.is_dry_run = is_dry_run(request.query_string)
    start = time.monotonic()
    body = read_body(request.stream, request.content_length, config.max_body_bytes)
    if time.monotonic() - start > MAX_KEY_AGE:
        api_key = authenticate(key, database)
    context.body_bytes = len(body)
    documents = validate(parse_body(body))
    context.devices = len(documents)
    update = dry_run_update if context.is_dry_run else update_metadata
    device_ids = database.run(
        update,
        api_key.organization_id,
        documents,
        context.request_id,
        api_key.id,
        partial(guard, api_key),
    )
    context.updated = len(device_ids)
    return build_response(documents, device_ids, is_dry_run=context.is_dry_run)


def guard(api_key: ApiKey) -> str:
    """Return SQL that prevents a late update. It is called before each attempt.

    An attempt must start early enough to end before ANSWER_TIMEOUT, when the client
    gets its 500. Raises ClientDisconnectedError.
    """
    config: Config = current_app.extensions["config"]
    require_connected(request.environ.get("gunicorn.socket"))
    start_within = config.answer_timeout - config.statement_timeout
    return api_key.clock.guard(start_within, config.statement_timeout)


def authenticate(key: str | None, database: Database) -> ApiKey:
    """Return the organization and ID of an API key.

    Raises ApiError 401, with the same message for every reason. API keys are not
    cached, so a revoked API key stops working immediately.
    """
    if key is not None and is_well_formed(key):
        api_key = database.run(select_api_key, digest(key))
        if api_key is not None:
            return api_key
    raise ApiError(401, INVALID_API_KEY)
