"""A Citus cluster for the tests: a coordinator and two worker nodes."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.cluster import Cluster
from tests.support.service import ROOT
from tests.support.waiting import free_port

SETTINGS = {
    "shared_preload_libraries": "citus",
    # Required to move shards.
    "wal_level": "logical",
    "citus.node_conninfo": "sslmode=disable",
}

SHARD = """
SELECT shardid, nodeport
  FROM citus_shards
 WHERE table_name = 'devices'::regclass
   AND shardid = get_shard_id_for_distribution_column('devices', '{}'::uuid)
"""


class CitusCluster(NamedTuple):
    """A cluster with an empty database."""

    #: The URL of the database on the coordinator, for its superuser.
    url: str
    #: The coordinator and the worker nodes, if the tests started them.
    nodes: list[Cluster]

    def shard(self, organization_id: str) -> tuple[int, Cluster, Cluster]:
        """Return the shard of the devices of an organization, its worker node and the
        other worker node. Otherwise skip the test."""
        if not self.nodes:
            pytest.skip(
                "faults of Citus nodes, which TEST_CITUS_URL does not allow. To test "
                "them, unset it and install Citus for a local PostgreSQL"
            )
        [[number, port]] = self.nodes[0].execute(SHARD.format(organization_id))
        node, other = sorted(self.nodes[1:], key=lambda node: node.port != port)
        return number, node, other

    def move_shard(self, organization_id: str) -> Cluster:
        """Move the shard of an organization to the other worker node, and return that
        node."""
        number, node, other = self.shard(organization_id)
        self.nodes[0].execute(
            f"SELECT citus_move_shard_placement({number}, '127.0.0.1', {node.port},"
            f" '127.0.0.1', {other.port}, 'block_writes')"
        )
        return other


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
    with start_nodes(binaries) as nodes:
        yield CitusCluster(nodes[0].url, nodes)


@contextmanager
def start_nodes(binaries: Path, **settings: str) -> Iterator[list[Cluster]]:
    """Start a cluster with these additional settings. Yield the coordinator and two
    worker nodes."""
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
            node.create(**SETTINGS, **settings)
            node.start()
            node.execute("CREATE EXTENSION citus")
        coordinator, *workers = nodes
        coordinator.execute(
            f"SELECT citus_set_coordinator_host('127.0.0.1', {coordinator.port})",
            *(f"SELECT citus_add_node('127.0.0.1', {node.port})" for node in workers),
        )
        yield nodes


def statements() -> list[str]:
    """Return the statements of deploy/citus.sql. psql runs each in a transaction. Fewer
    shards make the tests faster."""
    text = (ROOT / "deploy" / "citus.sql").read_text().replace("=> 64", "=> 8")
    statement = r"^(?:DO \$\$.+?\$\$|(?:SELECT|GRANT).+?);$"
    return re.findall(statement, text, re.MULTILINE | re.DOTALL)


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
