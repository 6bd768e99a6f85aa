"""The contract and the commands on a Citus cluster, with and without faults."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import Raw
from psycopg2.errors import RaiseException
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.queries import PREPARED, update_metadata
from bulk_metadata.db.schema import apply_schema

# Tests of the contract and the commands that also run on the cluster.
from tests.api.test_authentication import (  # noqa: F401
    test_authentication_precedes_body_validation,
    test_expired_key_is_rejected_immediately,
    test_invalid_key_is_rejected,
    test_revoked_key_is_rejected_immediately,
)
from tests.api.test_update import (  # noqa: F401
    test_1000_keys_can_be_one_device,
    test_device_of_other_organization_is_not_found,
    test_identifiers_are_trimmed_of_white_space,
    test_keys_equal_after_trimming_are_one_device,
    test_matching_is_exact,
    test_metadata_is_normalized_by_jsonb,
    test_metadata_is_replaced_not_merged,
    test_no_device_is_created,
    test_published_example_is_reproduced,
    test_request_is_safe_to_repeat,
    test_results_have_body_order,
    test_special_characters_are_stored_verbatim,
)
from tests.commands.conftest import Flask, flask, runner  # noqa: F401
from tests.commands.test_accounts import (  # noqa: F401
    test_create_organization_prints_id,
    test_created_key_expires,
    test_created_key_works,
    test_invalid_argument_is_reported,
    test_list_keys_shows_states_without_keys,
    test_revoked_key_stops_working,
)
from tests.conftest import Organization, Post, connect
from tests.support.citus import CitusCluster, statements
from tests.support.concurrent_clients import IDENTIFIERS, ConcurrentClients
from tests.support.service import PATH, ROOT, run_service
from tests.support.waiting import wait_until
from tests.system.test_readme import test_error_table_matches_responses  # noqa: F401


@pytest.mark.parametrize("prepared", [False, True])
def test_update_is_one_task_with_index(
    prepared: bool, config: Config, acme: Organization
) -> None:
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers)
    connection = connect_service(config)
    if prepared:
        connection.prepare(PREPARED)
    with connection.cursor() as cursor:
        documents = dict.fromkeys(identifiers, Raw(b"{}"))
        assert len(update_metadata(cursor, acme.id, documents)) == 1000
        cursor.execute(b"EXPLAIN " + (cursor.query or b""))
        lines = "\n".join(line for [line] in cursor.fetchall())
    connection.close()
    assert "Task Count: 1" in lines
    assert "Index Scan using devices_organization_id_identifier_key" in lines


def test_settings_of_role_apply_on_workers(cursor: Cursor) -> None:
    query = (
        "SELECT string_agg(setting, ' ' ORDER BY setting)"
        " FROM pg_db_role_setting, unnest(setconfig) AS setting"
        " WHERE setrole = 'bulk_metadata_service'::regrole"
    )
    cursor.execute(query)
    [[settings]] = cursor.fetchall()
    assert "enable_seqscan=off" in settings
    assert "lock_timeout=4s" in settings
    cursor.execute("SELECT success, result FROM run_command_on_workers(%s)", (query,))
    workers = cursor.fetchall()
    assert len(workers) >= 2
    assert set(workers) == {(True, settings)}


def test_organizations_are_on_different_nodes(post: Post, cursor: Cursor) -> None:
    for number in range(20):
        organization = Organization(cursor, f"Organization {number}")
        organization.insert("SN-1")
        response = post({"devices": {"SN-1": {"n": number}}}, key=organization.key)
        assert response.status_code == 200
        assert organization.metadata() == {"SN-1": {"n": number}}
    cursor.execute("SELECT count(DISTINCT nodeport || nodename) FROM citus_shards")
    [[nodes]] = cursor.fetchall()
    assert nodes >= 2


@pytest.mark.slow(reason="the timeouts are at least 1, 2 and 3 s")
@pytest.mark.parametrize("devices", [1, 1000])
def test_suspended_worker_node_causes_no_late_update(
    devices: int, cluster: CitusCluster, config: Config, acme: Organization
) -> None:
    """The guard makes Citus commit only after the response of the node."""
    acme.insert(*(f"SN-{number}" for number in range(devices)), metadata={"n": 1})
    _, node, _ = cluster.shard(acme.id)
    config = replace(config, lock_timeout=1, statement_timeout=2, answer_timeout=3)
    client = create_app(config).test_client()

    def post(metadata: object) -> int:
        body = {"devices": {f"SN-{number}": metadata for number in range(devices)}}
        headers = {"x-api-key": acme.key}
        return client.post(PATH, json=body, headers=headers).status_code

    assert post({"n": 2}) == 200
    node.suspend()
    try:
        assert post({"n": 3}) == 500
    finally:
        node.resume()
    active = "pg_stat_activity WHERE state = 'active' AND query LIKE '%UPDATE%'"
    wait_until(lambda: node.count(active) == 1, "the end of the late statement")
    assert set(map(str, acme.metadata().values())) == {"{'n': 2}"}


@pytest.mark.slow(reason="a worker node restarts")
def test_moved_shard_and_restarted_node_lose_no_device(
    cluster: CitusCluster,
    config: Config,
    acme: Organization,
    flask: Flask,  # noqa: F811
    tmp_path: Path,
) -> None:
    acme.insert(*IDENTIFIERS)
    cluster.shard(acme.id)
    with (
        run_service(tmp_path / "log", DATABASE_URL=config.database_url) as service,
        ConcurrentClients(service.port, acme.key) as clients,
    ):
        with clients.writing():
            assert flask("enable-history").exit_code == 0
            clients.wait_for_more()
            assert flask("disable-history", "--yes").exit_code == 0
            assert flask("enable-history").exit_code == 0
            clients.wait_for_more()
            assert set(clients.statuses) == {200}
            node = cluster.move_shard(acme.id)
            clients.wait_for_more()
            node.restart()
        clients.check(acme.metadata())
    assert flask("disable-history", "--yes").exit_code == 0


def test_privileges_equal_those_of_schema() -> None:
    grants = [
        re.findall(r"^GRANT.+?;$", path.read_text(), re.MULTILINE | re.DOTALL)
        for path in (ROOT / "schema.sql", ROOT / "deploy" / "citus.sql")
    ]
    assert len(grants[0]) == 2
    assert grants[0] == grants[1]


@pytest.fixture
def new_database(cluster: CitusCluster) -> Iterator[str]:
    """The URL of a database on the coordinator, without the extension."""
    with closing(connect(cluster.url)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE undistributed")
        yield make_dsn(cluster.url, dbname="undistributed")
        cursor.execute("DROP DATABASE undistributed")


def test_history_requires_distributed_tables(new_database: str, config: Config) -> None:
    run = runner(config, new_database)
    with closing(connect(new_database)) as connection, connection.cursor() as cursor:
        apply_schema(cursor)
        assert run("enable-history").exit_code == 0
        with pytest.raises(RaiseException, match="The history is enabled"):
            cursor.execute(statements()[0])
        assert run("disable-history", "--yes").exit_code == 0
        cursor.execute("CREATE EXTENSION citus")
    assert run("enable-history").output == (
        "Error: The database has the extension citus, but the tables are not "
        "distributed. Run deploy/citus.sql first.\n"
    )
