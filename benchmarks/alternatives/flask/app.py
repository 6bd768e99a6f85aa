"""A straightforward implementation: Flask, marshmallow, and execute_values."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, abort, jsonify, request
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate
from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import Json, execute_values
from psycopg2.pool import ThreadedConnectionPool
from werkzeug.exceptions import HTTPException

connections = int(os.environ["CONNECTIONS"])
pool = ThreadedConnectionPool(connections, connections, os.environ["DATABASE_URL"])
app = Flask(__name__)


class BulkMetadata(Schema):
    """The body of a request."""

    class Meta:
        unknown = EXCLUDE

    devices = fields.Dict(
        keys=fields.Str(),
        values=fields.Dict(keys=fields.Str()),
        required=True,
        validate=validate.Length(min=1, max=1000),
    )


schema = BulkMetadata()

SELECT_ORGANIZATION = """
SELECT organization_id
  FROM api_keys
 WHERE key_hash = %s
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > now())
"""

UPDATE_METADATA = """
   UPDATE devices
      SET device_metadata = sent.metadata, updated_at = now()
     FROM (VALUES %%s) AS sent (identifier, metadata)
    WHERE devices.organization_id = %s
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
"""


@contextmanager
def transaction() -> Iterator[Cursor]:
    """Yield a cursor of a pooled connection; commit, or roll back after an error."""
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        pool.putconn(connection)


@app.post("/api/ext-v1/device/bulk-metadata")
def bulk_metadata() -> Any:
    """Replace the metadata of the devices in the body."""
    key = request.headers.get("x-api-key", "")
    with transaction() as cursor:
        cursor.execute(SELECT_ORGANIZATION, (hashlib.sha256(key.encode()).digest(),))
        organization = cursor.fetchone()
        if organization is None:
            abort(401, "Invalid or missing API key")
        try:
            body = schema.load(request.get_json(force=True))
        except ValidationError:
            abort(400, "Invalid JSON payload")
        sent = {key.strip(): metadata for key, metadata in body["devices"].items()}
        found = execute_values(
            cursor,
            cursor.mogrify(UPDATE_METADATA, organization),
            [(identifier, Json(metadata)) for identifier, metadata in sent.items()],
            template="(%s, %s::jsonb)",
            fetch=True,
        )

    ids = dict(found)
    return {
        "success": True,
        "updated": len(ids),
        "notFound": len(sent) - len(ids),
        "results": [
            {
                "identifier": identifier,
                "deviceId": ids.get(identifier, ""),
                "status": "updated" if identifier in ids else "not_found",
            }
            for identifier in sent
        ],
    }


@app.errorhandler(HTTPException)
def error(exception: HTTPException) -> Any:
    """Return an error as JSON."""
    return jsonify(error=exception.description), exception.code
