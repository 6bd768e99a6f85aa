"""How near the service is to the limit: the same devices, updated by bare statements
that psycopg2 sends as ready text over a warm connection."""

from collections.abc import Callable
from contextlib import closing

from psycopg2.extensions import connection as Connection

from benchmarks.client import Client
from benchmarks.fleet import Documents, Fleet, json_object
from benchmarks.measure import Sample, Subject, over_http, side_by_side, statement
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service

BARE, FLOOR, SERVICE = "bare UPDATE", "floor", "service"

BATCHES = [1, 10, 100, 1000]

# What one would write by hand.
UPDATE_FROM_VALUES = """
   UPDATE devices
      SET device_metadata = sent.metadata::jsonb, updated_at = now()
     FROM (VALUES {rows}) AS sent (identifier, metadata)
    WHERE devices.organization_id = {organization_id}
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
"""

# The fastest that is known. Its order is jsonb's own, which takes locks in an order of
# the keys' lengths first; nobody else may lock devices in another.
UPDATE_FROM_EACH = """
   UPDATE devices
      SET device_metadata = sent.value, updated_at = now()
     FROM jsonb_each({json}) AS sent
    WHERE devices.organization_id = {organization_id}
      AND devices.identifier = sent.key
RETURNING devices.identifier, devices.id
"""


def measure_limit(
    service_url: str, port: int, fleet: Fleet, batch: int, rounds: int
) -> dict[str, Sample]:
    """Measure the bare statements and the service at ``port`` side by side."""
    config = Config(database_url=service_url)
    with (
        closing(connect_service(config)) as connection,
        closing(connect_service(config)) as another,
        Client(port, fleet.key) as client,
    ):
        subjects: dict[str, Subject] = {
            BARE: statement(connection, write_values(connection, fleet)),
            FLOOR: statement(another, write_each(another, fleet)),
            SERVICE: over_http(client),
        }
        return side_by_side(subjects, fleet, batch, rounds)


def write_values(connection: Connection, fleet: Fleet) -> Callable[[Documents], bytes]:
    """Return a function that writes the bare UPDATE, sorted as the service sorts."""

    def write(documents: Documents) -> bytes:
        with connection.cursor() as cursor:
            rows = [
                cursor.mogrify("(%s, %s)", row) for row in sorted(documents.items())
            ]
            text = UPDATE_FROM_VALUES.format(
                rows=b", ".join(rows).decode(),
                organization_id=cursor.mogrify("%s", (fleet.organization_id,)).decode(),
            )
        return text.encode()

    return write


def write_each(connection: Connection, fleet: Fleet) -> Callable[[Documents], bytes]:
    """Return a function that writes the fastest statement known."""

    def write(documents: Documents) -> bytes:
        with connection.cursor() as cursor:
            text = UPDATE_FROM_EACH.format(
                json=cursor.mogrify("%s", (json_object(documents),)).decode(),
                organization_id=cursor.mogrify("%s", (fleet.organization_id,)).decode(),
            )
        return text.encode()

    return write
