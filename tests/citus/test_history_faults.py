"""Faults of the nodes of a Citus cluster with the history."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg2.extensions import cursor as Cursor

from tests.commands.conftest import (  # noqa: F401
    Flask,
    Send,
    flask,
    history,
    run_flask,
    send,
)
from tests.conftest import Organization
from tests.support.citus import CitusCluster
from tests.support.concurrent_clients import lock
from tests.support.waiting import wait_until


def test_service_role_has_no_privilege_on_any_node(history: Cursor) -> None:  # noqa: F811
    """Neither on the tables nor on their shards."""
    query = (
        "SELECT count(*) > 3 AND NOT bool_or(has_table_privilege("
        "''bulk_metadata_service'', oid, ''SELECT, INSERT, UPDATE, DELETE, TRUNCATE''))"
        " FROM pg_class WHERE relkind = ''r'' AND relname LIKE ''history%''"
    )
    history.execute(f"SELECT result FROM run_command_on_workers('{query}')")
    assert set(history.fetchall()) == {("t",)}


@pytest.mark.slow(reason="a shard moves twice")
def test_order_of_changes_survives_moves(
    cluster: CitusCluster,
    acme: Organization,
    flask: Flask,  # noqa: F811
    send: Send,  # noqa: F811
) -> None:
    acme.insert("A", metadata={"v": 0})
    send("one", A=1)
    cluster.move_shard(acme.id)
    send("two", A=2)
    cluster.move_shard(acme.id)
    send("three", A=3)
    for request_id, metadata in (("three", 2), ("two", 1), ("one", 0)):
        result = flask("undo", "Acme", "--request", request_id, "--yes")
        assert result.output.startswith("Restored 1 device, skipped 0.")
        assert acme.metadata() == {"A": {"v": metadata}}


@pytest.mark.slow(reason="a worker node restarts")
def test_undo_interrupted_by_restarted_node_is_completed(
    cluster: CitusCluster,
    acme: Organization,
    owner_url: str,
    flask: Flask,  # noqa: F811
    send: Send,  # noqa: F811
) -> None:
    devices = [f"SN-{number:04}" for number in range(1500)]
    acme.insert(*devices)
    send("wrong", **dict.fromkeys(devices[:1000], 1))
    send("wrong", **dict.fromkeys(devices[1000:], 1))
    number, node, _ = cluster.shard(acme.id)
    undo = ("undo", "Acme", "--request", "wrong", "--yes")
    restored = f"devices_{number} WHERE request_id LIKE 'undo-%'"
    locked = (
        f"SELECT FROM devices_{number} WHERE identifier = '{devices[1200]}' FOR UPDATE"
    )
    with lock(node, locked), ThreadPoolExecutor() as executor:
        interrupted = executor.submit(run_flask, owner_url, *undo)
        wait_until(lambda: node.count(restored) == 1000, "the first step")
        node.restart("immediate")
        assert "1,000 devices restored. Repeat" in interrupted.result().stderr
        assert interrupted.result().returncode == 4
    assert flask(*undo).output.startswith("Restored 500 devices, skipped 0.")
    assert set(map(str, acme.metadata().values())) == {"{}"}
    acme.cursor.execute("SELECT DISTINCT request_id FROM devices")
    assert len(acme.cursor.fetchall()) == 1
