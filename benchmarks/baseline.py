"""The baseline: UPDATE statements for the same devices, without HTTP.

psycopg2 sends them as prepared text over a warm connection.
"""

import time
from collections.abc import Callable
from contextlib import closing

from psycopg2.extensions import connection as Connection

from benchmarks.client import Client
from benchmarks.database import Documents, Fleet, json_object
from benchmarks.measure import (
    Sample,
    Subject,
    measure_interleaved,
    over_http,
    require_updated,
)
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service

BASELINE, LOWER_BOUND, SERVICE = "baseline UPDATE", "lower bound", "service"

BATCHES = [1, 10, 100, 1000]

# The statement that most developers would write.
UPDATE_FROM_VALUES = """
   UPDATE devices
      SET device_metadata = sent.metadata::jsonb, updated_at = now()
     FROM (VALUES {rows}) AS sent (identifier, metadata)
    WHERE devices.organization_id = {organization_id}
      AND devices.identifier = sent.identifier
RETURNING devices.identifier, devices.id
"""

# The fastest known statement. It locks rows in the order of jsonb, by key length first,
# so it can deadlock with any statement that locks them in another order.
UPDATE_FROM_EACH = """
   UPDATE devices
      SET device_metadata = sent.value, updated_at = now()
     FROM jsonb_each({json}) AS sent
    WHERE devices.organization_id = {organization_id}
      AND devices.identifier = sent.key
RETURNING devices.identifier, devices.id
"""


def measure_baseline(
    service_url: str, port: int, fleet: Fleet, batch: int, rounds: int
) -> dict[str, Sample]:
    """Measure the statements and the service at ``port``, interleaved."""
    config = Config(database_url=service_url)
    with (
        closing(connect_service(config)) as first,
        closing(connect_service(config)) as second,
        Client(port, fleet.key) as client,
    ):
        subjects: dict[str, Subject] = {
            BASELINE: statement(first, format_values(first, fleet)),
            LOWER_BOUND: statement(second, format_each(second, fleet)),
            SERVICE: over_http(client),
        }
        return measure_interleaved(subjects, fleet, batch, rounds)


def statement(
    connection: Connection, format_statement: Callable[[Documents], bytes]
) -> Subject:
    """Return a subject that sends one statement. Its formatting is not measured."""

    def execute(documents: Documents) -> float:
        text = format_statement(documents)
        with connection.cursor() as cursor:
            start = time.perf_counter()
            cursor.execute(text)
            rows = cursor.fetchall()
            seconds = time.perf_counter() - start
        require_updated(len(rows), len(documents))
        return seconds

    return execute


def format_values(connection: Connection, fleet: Fleet) -> Callable[[Documents], bytes]:
    """Return a function that formats the baseline UPDATE, sorted as in the service."""

    def format_statement(documents: Documents) -> bytes:
        with connection.cursor() as cursor:
            rows = [
                cursor.mogrify("(%s, %s)", row) for row in sorted(documents.items())
            ]
            text = UPDATE_FROM_VALUES.format(
                rows=b", ".join(rows).decode(),
                organization_id=cursor.mogrify("%s", (fleet.organization_id,)).decode(),
            )
        return text.encode()

    return format_statement


def format_each(connection: Connection, fleet: Fleet) -> Callable[[Documents], bytes]:
    """Return a function that formats the fastest known statement."""

    def format_statement(documents: Documents) -> bytes:
        with connection.cursor() as cursor:
            text = UPDATE_FROM_EACH.format(
                json=cursor.mogrify("%s", (json_object(documents),)).decode(),
                organization_id=cursor.mogrify("%s", (fleet.organization_id,)).decode(),
            )
        return text.encode()

    return format_statement
