"""The endpoint in Flask with the SQLAlchemy ORM: a bulk UPDATE by primary key."""

import hashlib
import os
from datetime import datetime
from typing import Any
from uuid import UUID

from flask import Flask, abort, jsonify, request
from sqlalchemy import DateTime, create_engine, func, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from werkzeug.exceptions import HTTPException

engine = create_engine(
    os.environ["DATABASE_URL"],
    pool_size=int(os.environ["CONNECTIONS"]),
    max_overflow=0,
)
Session = sessionmaker(engine)
app = Flask(__name__)


class Base(DeclarativeBase):
    """The base class of the models."""

    type_annotation_map = {
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class ApiKey(Base):
    """An API key of an organization."""

    __tablename__ = "api_keys"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    organization_id: Mapped[UUID]
    key_hash: Mapped[bytes]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Device(Base):
    """A device."""

    __tablename__ = "devices"

    organization_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    identifier: Mapped[str]
    device_metadata: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime] = mapped_column(onupdate=func.now())


@app.post("/api/ext-v1/device/bulk-metadata")
def bulk_metadata() -> Any:
    """Replace the metadata of the devices in the body."""
    key = request.headers.get("x-api-key", "")
    with Session.begin() as session:
        organization_id = session.scalar(
            select(ApiKey.organization_id).where(
                ApiKey.key_hash == hashlib.sha256(key.encode()).digest(),
                ApiKey.revoked_at.is_(None),
                or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > func.now()),
            )
        )
        if organization_id is None:
            abort(401, "Invalid or missing API key")
        body = request.get_json(force=True)
        if not isinstance(body, dict) or not isinstance(body.get("devices"), dict):
            abort(400, "Invalid JSON payload")
        sent = {key.strip(): metadata for key, metadata in body["devices"].items()}

        rows = session.execute(
            select(Device.identifier, Device.id).where(
                Device.organization_id == organization_id,
                Device.identifier.in_(sent),
            )
        )
        ids = {row.identifier: row.id for row in rows}
        if ids:
            session.execute(
                update(Device),
                [
                    {
                        "organization_id": organization_id,
                        "id": device_id,
                        "device_metadata": sent[identifier],
                    }
                    for identifier, device_id in ids.items()
                ],
            )

    return {
        "success": True,
        "updated": len(ids),
        "notFound": len(sent) - len(ids),
        "results": [
            {
                "identifier": identifier,
                "deviceId": str(ids.get(identifier, "")),
                "status": "updated" if identifier in ids else "not_found",
            }
            for identifier in sent
        ],
    }


@app.errorhandler(HTTPException)
def error(exception: HTTPException) -> Any:
    """Return an error as JSON."""
    return jsonify(error=exception.description), exception.code
