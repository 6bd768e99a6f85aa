"""What is measured on: fleets of devices, and metadata of the usual size for them."""

import json
import random
from dataclasses import dataclass
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from tests.conftest import Organization

# {identifier: metadata as JSON text}
Documents = dict[str, str]

INSERT_DEVICES = """
INSERT INTO devices (organization_id, identifier, device_metadata)
     SELECT %s, 'SN-' || lpad(number::text, 8, '0'), %s
       FROM generate_series(0, %s) AS number
"""


@dataclass(frozen=True)
class Fleet:
    """An organization with ``size`` devices."""

    size: int
    organization_id: str
    key: str

    @classmethod
    def create(cls, cursor: Cursor, size: int) -> "Fleet":
        """Create a fleet whose devices have metadata like what replaces it."""
        organization = Organization(cursor, f"Fleet of {size}")
        cursor.execute(INSERT_DEVICES, (organization.id, metadata(0), size - 1))
        return cls(size, organization.id, organization.key)

    def documents(self, count: int) -> Documents:
        """Return new metadata for so many of its devices, picked at random."""
        return documents(random.sample(range(self.size), count))


class Neighbours(Fleet):
    """A fleet of which each call takes devices that were created one after another."""

    def documents(self, count: int) -> Documents:
        """Return new metadata for so many devices in a row."""
        first = random.randrange(0, self.size, count)
        return documents(list(range(first, first + count)))


def documents(numbers: list[int]) -> Documents:
    """Return new metadata for the devices of these numbers."""
    return {f"SN-{number:08}": metadata(number) for number in numbers}


def metadata(number: int) -> str:
    """Return about 200 bytes of JSON, different each time."""
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
    """Return the request's body for ``documents``."""
    return f'{{"devices": {json_object(documents)}}}'.encode()


def json_object(documents: Documents) -> str:
    """Return ``documents`` as one JSON object, each as it stands."""
    members = [f"{json.dumps(key)}: {text}" for key, text in documents.items()]
    return "{" + ", ".join(members) + "}"
