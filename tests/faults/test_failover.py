"""Two servers, one of which dies: what was acknowledged is on the other one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, folder_for_postgres, kill, run
from tests.support.concurrent_clients import DEVICES, PROMISE, ask, clients
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.faults


def pair_url(primary: Cluster, standby: Cluster) -> str:
    """Return a URL that names both, and leads to the one that takes writes."""
    return (
        "postgresql://bulk_metadata_service@"
        f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
        "/postgres?target_session_attrs=read-write"
    )


@contextmanager
def synchronous_standby(primary: Cluster, folder: Path) -> Iterator[Cluster]:
    """Run a copy of ``primary`` without which that acknowledges nothing any more."""
    standby = Cluster(folder, free_port())
    folder_for_postgres(folder)
    copy = ("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
    run(*copy, "-D", str(standby.data), "-d", primary.url)
    # It comes back to the primary soon, and waits for nobody once it is promoted.
    standby.configure(wal_retrieve_retry_interval="100", synchronous_standby_names="")
    standby.start()
    try:
        # Started with it, not reloaded: so it holds for the very first write.
        primary.configure(synchronous_standby_names="*", synchronous_commit="on")
        primary.stop()
        primary.start()
        wait_until(lambda: is_synchronous(primary))
        yield standby
    finally:
        kill(standby)


def is_synchronous(primary: Cluster) -> bool:
    state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
    return ask(primary, state) == 1


def kill_for_good(server: Cluster) -> None:
    """Kill every process at once, and leave none for the fixture to look for."""
    kill(server)
    (server.data / "postmaster.pid").unlink()


@pytest.mark.parametrize("end", [kill_for_good, Cluster.freeze])
def test_a_failover_loses_nothing_that_was_acknowledged(
    server: Cluster, folder: Path, end: Callable[[Cluster], None]
) -> None:
    key = server.prepare(DEVICES)
    with (
        synchronous_standby(server, folder / "standby") as standby,
        clients(key, pair_url(server, standby), folder) as callers,
    ):
        with callers.writing():
            callers.wait_for_more()
            end(server)
            ended = time.monotonic()
            standby.promote()
            callers.wait_for_more(any)
            print(f"first 200 after {time.monotonic() - ended:.2f} s")
            callers.wait_for_more()
        assert callers.worst < PROMISE
        callers.check(standby)
