"""What rewriting a fleet again and again does to the table, with nobody vacuuming."""

import time
from dataclasses import dataclass

import click
from psycopg2.extensions import cursor as Cursor

from benchmarks.client import Client
from benchmarks.fleet import Fleet, body, documents

BATCH = 1000
# Seconds until the statistics of a session that is done must have come in.
PATIENCE = 60

SELECT_STATISTICS = """
SELECT n_tup_upd, n_tup_hot_upd, autovacuum_count
  FROM pg_stat_user_tables
 WHERE relname = 'devices'
"""


@dataclass(frozen=True)
class Storage:
    """The devices table after all rewrites."""

    devices: int
    rewrites: int
    hot_share: float
    table_before: int
    table_after: int
    indexes_before: int
    indexes_after: int
    wal_per_device: float
    autovacuums: int


def measure_storage(cursor: Cursor, port: int, fleet: Fleet, rewrites: int) -> Storage:
    """Rewrite all of ``fleet``, the only one in its table, over HTTP."""
    table, indexes = sizes(cursor)
    before = updates(cursor)
    start = wal_position(cursor)
    with (
        Client(port, fleet.key) as client,
        click.progressbar(range(rewrites), label="Rewrites") as progress,
    ):
        for _ in progress:
            for first in range(0, fleet.size, BATCH):
                last = min(first + BATCH, fleet.size)
                client.call(body(documents(list(range(first, last)))))
    written = wal_position(cursor) - start
    count = rewrites * fleet.size
    all_updates, heap_only, autovacuums = wait_for_updates(cursor, before[0] + count)
    table_after, indexes_after = sizes(cursor)
    return Storage(
        devices=fleet.size,
        rewrites=rewrites,
        hot_share=(heap_only - before[1]) / (all_updates - before[0]),
        table_before=table,
        table_after=table_after,
        indexes_before=indexes,
        indexes_after=indexes_after,
        wal_per_device=written / count,
        autovacuums=autovacuums,
    )


def sizes(cursor: Cursor) -> tuple[int, int]:
    """Return the bytes of the devices table and of its indexes."""
    cursor.execute("SELECT pg_table_size('devices'), pg_indexes_size('devices')")
    [(table, indexes)] = cursor.fetchall()
    return table, indexes


def wal_position(cursor: Cursor) -> int:
    """Return how many bytes of WAL were ever written."""
    cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
    [[position]] = cursor.fetchall()
    return int(position)


def updates(cursor: Cursor) -> tuple[int, int, int]:
    """Return how many updates there were, how many heap-only, how many autovacuums."""
    cursor.execute(SELECT_STATISTICS)
    [(all_updates, heap_only, autovacuums)] = cursor.fetchall()
    return all_updates, heap_only, autovacuums


def wait_for_updates(cursor: Cursor, count: int) -> tuple[int, int, int]:
    """Return the statistics once all ``count`` updates are in them: sessions report
    theirs with some delay."""
    end = time.monotonic() + PATIENCE
    while (statistics := updates(cursor))[0] < count and time.monotonic() < end:
        time.sleep(0.1)
    return statistics
