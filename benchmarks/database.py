"""The benchmark's own PostgreSQL, the embedded one, with settings that are printed."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extensions import cursor as Cursor

from benchmarks.fleet import Fleet
from bulk_metadata.db.schema import apply_schema
from tests.support.cluster import Cluster, cluster
from tests.support.service import free_port

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    # No checkpoint in the middle of a measurement: for a minute after one PostgreSQL
    # writes whole pages, and some calls would be measured then and others not.
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
}

# The service needs no statistics; the peers' plans do, and get the best there are.
ANALYZE = """
ALTER TABLE devices ALTER COLUMN organization_id SET STATISTICS -1;
ANALYZE devices
"""


@contextmanager
def postgres(**settings: str) -> Iterator[Cluster]:
    """Run a new server with the service's schema, and remove it. ``settings`` are
    added to the benchmark's own, or replace them."""
    settings = SETTINGS | settings
    with (
        tempfile.TemporaryDirectory(prefix="bulk-metadata-bench-") as folder,
        cluster(Path(folder) / "postgres", free_port(), **settings) as server,
    ):
        with server.connect() as connection, connection.cursor() as cursor:
            apply_schema(cursor)
        connection.close()
        yield server


def settle(cursor: Cursor) -> None:
    """Bring the tables into the state of daily use: every page written since the last
    checkpoint, room on every page, statistics up to date."""
    cursor.execute("VACUUM devices")
    cursor.execute("CHECKPOINT")
    cursor.execute("UPDATE devices SET updated_at = now()")
    cursor.execute("VACUUM devices")
    analyze(cursor)


def analyze(cursor: Cursor) -> None:
    """Bring the statistics up to date."""
    cursor.execute(ANALYZE)


def create_fleets(
    server: Cluster, sizes: Iterable[int], *, settled: bool = True
) -> list[Fleet]:
    """Create fleets of these sizes, all in the same table; ``settled``, or as new."""
    prepare = settle if settled else analyze
    connection = server.connect()
    with connection.cursor() as cursor:
        fleets = [Fleet.create(cursor, size) for size in sizes]
        prepare(cursor)
    connection.close()
    return fleets
