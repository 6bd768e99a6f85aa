"""The PostgreSQL server of the benchmark, and the fleets of devices on it."""

import json
import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from bulk_metadata.db.schema import apply_schema
from tests.conftest import Organization
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import free_port

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    # No checkpoint during a measurement: after a checkpoint PostgreSQL writes each page
    # in full once, which would slow down some requests and not others.
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
}

INSERT_DEVICES = """
INSERT INTO devices (organization_id, identifier, device_metadata)
     SELECT %s, 'SN-' || lpad(number::text, 8, '0'), %s
       FROM generate_series(0, %s) AS number
"""

# Every page has been written since the last checkpoint and has free space, as in daily
# use.
PREPARE = (
    "VACUUM devices",
    "CHECKPOINT",
    "UPDATE devices SET updated_at = now()",
    "VACUUM devices",
)

# The service needs no statistics, but the plans of the alternatives do.
ANALYZE = (
    "ALTER TABLE devices ALTER COLUMN organization_id SET STATISTICS -1",
    "ANALYZE devices",
)

# {identifier: metadata as JSON text}
Documents = dict[str, str]


@dataclass(frozen=True)
class Fleet:
    """An organization with ``size`` devices."""

    size: int
    organization_id: str
    key: str

    @classmethod
    def create(cls, cursor: Cursor, size: int) -> "Fleet":
        """Create a fleet whose metadata has the size of its later replacements."""
        organization = Organization(cursor, f"Fleet of {size}")
        cursor.execute(INSERT_DEVICES, (organization.id, metadata(0), size - 1))
        return cls(size, organization.id, organization.key)

    def documents(self, count: int) -> Documents:
        """Return new metadata for ``count`` random devices."""
        return documents(random.sample(range(self.size), count))


@contextmanager
def postgres() -> Iterator[Cluster]:
    """Run a new server with the schema of the service, and delete it afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as directory,
        cluster(Path(directory) / "postgres", free_port(), **SETTINGS) as server,
    ):
        with closing(server.connect()) as connection, connection.cursor() as cursor:
            apply_schema(cursor)
        yield server


def create_fleets(server: Cluster, sizes: Iterable[int]) -> list[Fleet]:
    """Create fleets of these sizes in one table."""
    with closing(server.connect()) as connection, connection.cursor() as cursor:
        fleets = [Fleet.create(cursor, size) for size in sizes]
        for statement in PREPARE:
            cursor.execute(statement)
    return fleets


def documents(numbers: Iterable[int]) -> Documents:
    """Return new metadata for the devices with these numbers."""
    return {f"SN-{number:08}": metadata(number) for number in numbers}


def metadata(number: int) -> str:
    """Return about 200 bytes of JSON, different in each call."""
    return json.dumps(
        {
            "firmwareVersion": f"3.2.{number % 10}",
            "status": "active",
            "location": f"Building {number % 1000}",
            "battery": round(random.uniform(0, 100), 1),
            "ip": f"10.0.{number // 256 % 256}.{number % 256}",
            "hardwareId": str(UUID(int=random.getrandbits(128))),
            "tags": ["outdoor", "solar"],
            "signal": random.randint(-110, -40),
        }
    )


def body(documents: Documents) -> bytes:
    """Return the request body for ``documents``, on one line."""
    return f'{{"devices": {json_object(documents)}}}'.encode()


def json_object(documents: Documents) -> str:
    """Return ``documents`` as one JSON object, each document unchanged."""
    members = [f"{json.dumps(key)}: {text}" for key, text in documents.items()]
    return "{" + ", ".join(members) + "}"
