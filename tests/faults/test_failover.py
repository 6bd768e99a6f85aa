"""A synchronous pair of PostgreSQL servers, of which the primary fails."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.conftest import SHORT, run_clients
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.faults


@pytest.fixture
def primary(directory: Path) -> Iterator[Cluster]:
    with cluster(directory / "primary", free_port(), fsync="off") as primary:
        yield primary


@contextmanager
def synchronous_standby(primary: Cluster, directory: Path) -> Iterator[Cluster]:
    """Run a copy of ``primary`` that confirms each commit."""
    standby = Cluster(directory, free_port())
    standby.create_directory()
    copy = ("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
    standby.run(*copy, "-D", str(standby.data), "-d", primary.url)
    # It reconnects quickly, and commits without a standby after its promotion.
    standby.configure(wal_retrieve_retry_interval="100", synchronous_standby_names="")
    standby.start()
    try:
        # A restart, because a reload may not apply to the first commit.
        primary.configure(synchronous_standby_names="*", synchronous_commit="on")
        primary.restart()
        source = "pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: primary.count(source) == 1, "the standby")
        yield standby
    finally:
        standby.kill()


@pytest.mark.slow(reason="starts two servers, and detects the failure of one")
@pytest.mark.parametrize("fail", [Cluster.kill, Cluster.suspend])
def test_failover_keeps_acknowledged_requests(
    primary: Cluster, directory: Path, fail: Callable[[Cluster], None]
) -> None:
    with synchronous_standby(primary, directory / "standby") as standby:
        url = (
            "postgresql://bulk_metadata_service@"
            f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            "/postgres?target_session_attrs=read-write"
        )
        with run_clients(primary, directory, url, **SHORT) as (_, clients):
            with clients.writing():
                fail(primary)
                standby.promote()
                clients.wait_for_more(any)
            assert clients.slowest < 15
            clients.check(standby.metadata())
