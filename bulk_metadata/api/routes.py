"""The endpoint. One request is one story, told top to bottom."""

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from bulk_metadata.api.authenticate import authenticate
from bulk_metadata.api.dry_run import is_dry_run
from bulk_metadata.api.request import parse_body, read_body
from bulk_metadata.api.response import answer
from bulk_metadata.api.validation import validate
from bulk_metadata.config import Config
from bulk_metadata.core.limits import ENDPOINT
from bulk_metadata.db.pool import Database
from bulk_metadata.db.queries import dry_run_update, update_metadata
from bulk_metadata.telemetry.context import record

blueprint = Blueprint("bulk_metadata", __name__)


@blueprint.post(ENDPOINT, provide_automatic_options=False)
def replace_bulk_metadata() -> ResponseReturnValue:
    """Replace the metadata of the devices that the body names, all in one statement; in
    a dry run undo it again."""
    database: Database = current_app.extensions["database"]
    config: Config = current_app.extensions["config"]

    caller = authenticate(request.headers.get("x-api-key"), database)
    record.organization_id, record.key_id = caller
    record.is_dry_run = is_dry_run(request.query_string)
    body = read_body(request.stream, request.content_length, config.max_body_bytes)
    record.body_bytes = len(body)
    documents = validate(parse_body(body))
    record.devices = len(documents)
    update = dry_run_update if record.is_dry_run else update_metadata
    device_ids = database.run(update, caller.organization_id, documents)
    record.updated = len(device_ids)
    return answer(documents, device_ids, is_dry_run=record.is_dry_run)
