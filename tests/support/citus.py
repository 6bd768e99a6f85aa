"""A Citus cluster for the tests: a coordinator and two worker nodes."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.cluster import Cluster
from tests.support.waiting import free_port

SETTINGS = {
    "shared_preload_libraries": "citus",
    # Required to move shards.
    "wal_level": "logical",
    "citus.node_conninfo": "sslmode=disable",
}


class CitusCluster(NamedTuple):
    """A cluster with an empty database."""

    #: The URL of the database on the coordinator, for its superuser.
    url: str
    #: The coordinator and the worker nodes, if the tests started them.
    nodes: list[Cluster]


@contextmanager
def citus() -> Iterator[CitusCluster]:
    """Yield the cluster that TEST_CITUS_URL names. Otherwise start one if a PostgreSQL
    with Citus is installed. Otherwise skip the test."""
    if url := os.environ.get("TEST_CITUS_URL"):
        yield CitusCluster(url, [])
        return
    binaries = find_citus()
    if binaries is None:
        pytest.skip(
            "Citus on a real cluster. To test it, install Citus for a local "
            "PostgreSQL, or set TEST_CITUS_URL to an empty database of a coordinator"
        )
    with (
        tempfile.TemporaryDirectory(prefix="citus-") as directory,
        ExitStack() as cleanup,
    ):
        names = ("coordinator", "worker-1", "worker-2")
        nodes = [
            Cluster(Path(directory) / name, free_port(), binaries) for name in names
        ]
        for node in nodes:
            cleanup.callback(node.kill)
            node.create(**SETTINGS)
            node.start()
            node.execute("CREATE EXTENSION citus")
        coordinator, *workers = nodes
        coordinator.execute(
            f"SELECT citus_set_coordinator_host('127.0.0.1', {coordinator.port})",
            *(f"SELECT citus_add_node('127.0.0.1', {node.port})" for node in workers),
        )
        yield CitusCluster(coordinator.url, nodes)


def find_citus() -> Path | None:
    """Return the directory of the programs of a PostgreSQL with Citus, if any."""
    candidates = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_config"), reverse=True),
        *map(Path, filter(None, [shutil.which("pg_config")])),
    ]
    for pg_config in candidates:
        output = subprocess.run(
            [pg_config, "--bindir", "--sharedir"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        binaries, share = map(Path, output.splitlines())
        if (share / "extension" / "citus.control").exists():
            return binaries
    return None
