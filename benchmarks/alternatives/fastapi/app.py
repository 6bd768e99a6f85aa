"""The endpoint in FastAPI with asyncpg: pydantic models, and one UPDATE from unnest."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
import orjson
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException


class BulkMetadata(BaseModel):
    """The body of a request."""

    devices: dict[str, dict[str, Any]]


class Result(BaseModel):
    """The result for one device."""

    identifier: str
    deviceId: str
    status: Literal["updated", "not_found"]


class Response(BaseModel):
    """The response body."""

    success: bool = True
    updated: int
    notFound: int
    results: list[Result]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a pool of connections while the application runs."""
    connections = int(os.environ["CONNECTIONS"])
    async with asyncpg.create_pool(
        os.environ["DATABASE_URL"], min_size=connections, max_size=connections
    ) as app.state.pool:
        yield


app = FastAPI(lifespan=lifespan)


async def get_connection(request: Request) -> AsyncIterator[asyncpg.Connection]:
    """Yield a pooled connection."""
    async with request.app.state.pool.acquire() as connection:
        yield connection


Connection = Annotated[asyncpg.Connection, Depends(get_connection, scope="function")]

SELECT_ORGANIZATION = """
SELECT organization_id
  FROM api_keys
 WHERE key_hash = $1
   AND revoked_at IS NULL
   AND (expires_at IS NULL OR expires_at > now())
"""

UPDATE_METADATA = """
   UPDATE devices
      SET device_metadata = sent.metadata, updated_at = now()
     FROM unnest($2::text[], $3::jsonb[]) AS sent (identifier, metadata)
    WHERE devices.organization_id = $1
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id::text
"""


async def get_organization(
    connection: Connection, x_api_key: Annotated[str, Header()] = ""
) -> UUID:
    """Return the ID of the organization that the API key belongs to."""
    digest = hashlib.sha256(x_api_key.encode()).digest()
    organization_id = await connection.fetchval(SELECT_ORGANIZATION, digest)
    if organization_id is None:
        raise HTTPException(401, "Invalid or missing API key")
    return organization_id


@app.post("/api/ext-v1/device/bulk-metadata")
async def bulk_metadata(
    connection: Connection,
    organization_id: Annotated[UUID, Depends(get_organization)],
    body: BulkMetadata,
) -> Response:
    """Replace the metadata of the devices in the body."""
    sent = {key.strip(): metadata for key, metadata in body.devices.items()}
    rows = await connection.fetch(
        UPDATE_METADATA,
        organization_id,
        list(sent),
        [orjson.dumps(metadata).decode() for metadata in sent.values()],
    )
    ids = dict(rows)
    return Response(
        updated=len(ids),
        notFound=len(sent) - len(ids),
        results=[
            Result(
                identifier=identifier,
                deviceId=ids.get(identifier, ""),
                status="updated" if identifier in ids else "not_found",
            )
            for identifier in sent
        ],
    )


@app.exception_handler(StarletteHTTPException)
async def http_error(_: Request, exception: StarletteHTTPException) -> JSONResponse:
    """Return an error in the format of the endpoint."""
    return JSONResponse({"error": exception.detail}, exception.status_code)


@app.exception_handler(RequestValidationError)
async def invalid(_: Request, exception: RequestValidationError) -> JSONResponse:
    """Return 400 instead of 422 for an invalid body."""
    return JSONResponse({"error": "Invalid JSON payload"}, 400)
