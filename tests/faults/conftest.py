"""A PostgreSQL server for fault injection, and concurrent clients of its service."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, cluster
from tests.support.concurrent_clients import IDENTIFIERS, ConcurrentClients
from tests.support.service import Service, run_service
from tests.support.waiting import free_port

WORKERS = 2
THREADS = 8
CONNECTIONS = WORKERS * THREADS

# Timeouts for tests that wait until they are exceeded.
SHORT = {
    "POOL_TIMEOUT": "1",
    "CONNECT_TIMEOUT": "2",
    "LOCK_TIMEOUT": "1",
    "STATEMENT_TIMEOUT": "2",
    "ANSWER_TIMEOUT": "3",
}
# Timeouts for tests in which requests wait, for as long as a busy machine needs.
LONG = {
    "LOCK_TIMEOUT": "40",
    "STATEMENT_TIMEOUT": "50",
    "ANSWER_TIMEOUT": "60",
    "REQUEST_TIMEOUT": "90",
}


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose name is short enough for a Unix socket in it."""
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Cluster]:
    """A server for all fault tests of a process. Each test restores its state."""
    directory = Path(tempfile.mkdtemp(prefix="faults-"))
    # Without fsync, only a crash of the operating system loses data.
    with cluster(directory / "primary", free_port(), fsync="off") as server:
        yield server
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def run_clients(
    server: Cluster, directory: Path, url: str = "", **settings: str
) -> Iterator[tuple[Service, ConcurrentClients]]:
    """Run the service on empty devices of ``server``, or at ``url``, and clients."""
    key = server.prepare(len(IDENTIFIERS))
    settings = {
        "DATABASE_URL": url or server.service_url,
        "WORKERS": str(WORKERS),
        "THREADS": str(THREADS),
        **settings,
    }
    with (
        run_service(directory / "gunicorn", **settings) as service,
        ConcurrentClients(service.port, key) as clients,
    ):
        yield service, clients
