"""A server of a trial, ready to be measured."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from msgspec import Raw
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from benchmarks.database import create_fleets, postgres
from benchmarks.fleet import Documents, Fleet
from benchmarks.measure import Subject, expect
from benchmarks.storage import updates, wait_for_updates, wal_position
from benchmarks.trials import Side
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect, connect_service
from bulk_metadata.db.queries import update_metadata
from tests.support.cluster import Cluster


@dataclass(frozen=True)
class Count:
    """What a server has counted so far."""

    wal: int
    checkpoints: int
    updates: int
    heap_only: int


@dataclass(frozen=True)
class Bench:
    """A server of a trial, ready to be measured."""

    side: Side
    fleet: Fleet
    owner: Cursor
    connection: Connection
    before: Count


@contextmanager
def bench(side: Side, size: int) -> Iterator[Bench]:
    """Run a server with a fleet of this size, all as ``side`` says."""
    with postgres(**side.settings) as server:
        [fleet] = create_fleets(server, [size])
        with (
            closing(server.connect()) as owner,
            owner.cursor() as cursor,
            closing(connection_to(server, side)) as connection,
        ):
            # Those that settled it, and are not to be counted as the calls'.
            wait_for_updates(cursor, size)
            for statement in side.statements:
                cursor.execute(statement)
            yield Bench(side, fleet, cursor, connection, count(cursor))


def connection_to(server: Cluster, side: Side) -> Connection:
    """Connect as the service; not pinned, as one whom the schema gives no settings."""
    if side.pinned:
        return connect_service(Config(database_url=server.service_url))
    connection = connect(server.url, Config.connect_timeout, "benchmarks")
    connection.autocommit = True
    return connection


def updating(bench: Bench) -> Subject:
    """Return a subject that runs the service's statement, after a checkpoint if the
    side has them."""

    def update(documents: Documents) -> float:
        if bench.side.checkpoints:
            bench.owner.execute("CHECKPOINT")
        sent = {key: Raw(text.encode()) for key, text in documents.items()}
        with bench.connection.cursor() as cursor:
            start = time.perf_counter()
            found = update_metadata(cursor, bench.fleet.organization_id, sent)
            seconds = time.perf_counter() - start
        expect(len(found), len(documents))
        return seconds

    return update


def count(cursor: Cursor) -> Count:
    """Return what the server has counted so far."""
    cursor.execute("SELECT num_done FROM pg_stat_checkpointer")
    [[checkpoints]] = cursor.fetchall()
    all_updates, heap_only, _ = updates(cursor)
    return Count(wal_position(cursor), checkpoints, all_updates, heap_only)
