"""The endpoint. One request is one story, told top to bottom."""

from flask import Blueprint, current_app, request
from flask.typing import ResponseReturnValue

from bulk_metadata.authenticate import authenticate
from bulk_metadata.body import parse_body, read_body
from bulk_metadata.config import Config
from bulk_metadata.database import Database
from bulk_metadata.queries import update_metadata
from bulk_metadata.response import answer
from bulk_metadata.validation import validate

blueprint = Blueprint("bulk_metadata", __name__)


@blueprint.post("/api/ext-v1/device/bulk-metadata", provide_automatic_options=False)
def replace_bulk_metadata() -> ResponseReturnValue:
    """Replace the metadata of the devices that the body names, all in one statement."""
    database: Database = current_app.extensions["database"]
    config: Config = current_app.extensions["config"]

    organization_id = authenticate(request.headers.get("x-api-key"), database)
    body = read_body(request.stream, request.content_length, config.max_body_bytes)
    documents = validate(parse_body(body))
    device_ids = database.run(update_metadata, organization_id, documents)
    return answer(documents, device_ids)
