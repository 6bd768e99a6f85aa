"""The tables spread over a Citus cluster: the contract holds, a call is one task."""

import re
from collections.abc import Iterator
from contextlib import closing

import pytest
from flask import Flask
from msgspec import Raw
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.queries import update_metadata
from bulk_metadata.db.schema import apply_schema

# The contract's tests, run once more with the fixtures of this module.
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
    test_published_example,
    test_request_is_safe_to_repeat,
    test_results_have_body_order,
    test_special_characters_are_stored_verbatim,
)
from tests.conftest import Organization, Post, connect
from tests.db.test_schema import Recorder
from tests.support.citus import citus
from tests.support.service import ROOT
from tests.system.test_readme import test_error_table  # noqa: F401

TABLES = "devices, api_keys, organizations"
LOGIN = {"user": "bulk_metadata_service", "password": "for-tests-only"}


@pytest.fixture(scope="module")
def owner_url() -> Iterator[str]:
    """The URL of a database whose tables are spread, for its owner."""
    with citus() as url:
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT to_regclass('organizations') IS NULL")
            assert cursor.fetchall() == [(True,)], "name a database without tables"
            apply_schema(cursor)
            for _ in ("first", "again"):
                for statement in statements():
                    cursor.execute(statement)
            cursor.execute(
                "ALTER ROLE bulk_metadata_service PASSWORD %s", (LOGIN["password"],)
            )
        yield url
        with closing(connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP TABLE {TABLES}")


def statements() -> list[str]:
    """Return what deploy/citus.sql has psql send, each in a transaction of its own."""
    text = (ROOT / "deploy" / "citus.sql").read_text()
    return re.findall(r"^(?:SELECT|GRANT).+?;$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def config(owner_url: str) -> Config:
    return Config(database_url=make_dsn(owner_url, **LOGIN))


@pytest.fixture(scope="module")
def app(config: Config) -> Flask:
    return create_app(config)


@pytest.fixture(scope="module")
def connection(owner_url: str) -> Iterator[Connection]:
    with closing(connect(owner_url)) as connection:
        yield connection


def test_an_update_is_one_task_by_the_index(config: Config, acme: Organization) -> None:
    identifiers = [f"SN-{number}" for number in range(1000)]
    acme.insert(*identifiers)
    connection = connect_service(config)
    with connection.cursor(cursor_factory=Recorder) as cursor:
        documents = dict.fromkeys(identifiers, Raw(b"{}"))
        assert len(update_metadata(cursor, acme.id, documents)) == 1000
        cursor.execute(b"EXPLAIN " + cursor.statement)
        lines = "\n".join(line for [line] in cursor.fetchall())
    connection.close()
    assert "Task Count: 1" in lines
    assert "Index Scan using devices_organization_id_identifier_key" in lines


def test_the_roles_settings_reach_the_workers(cursor: Cursor) -> None:
    settings = (
        "SELECT string_agg(setting, ' ' ORDER BY setting)"
        " FROM pg_db_role_setting, unnest(setconfig) AS setting"
        " WHERE setrole = 'bulk_metadata_service'::regrole"
    )
    cursor.execute(settings)
    [[ours]] = cursor.fetchall()
    assert "enable_seqscan=off" in ours
    assert "lock_timeout=4s" in ours
    cursor.execute(
        "SELECT success, result FROM run_command_on_workers(%s)", (settings,)
    )
    workers = cursor.fetchall()
    assert len(workers) >= 2
    assert set(workers) == {(True, ours)}


def test_organizations_on_different_nodes_are_served_alike(
    post: Post, cursor: Cursor
) -> None:
    for number in range(20):
        organization = Organization(cursor, f"Organization {number}")
        organization.insert("SN-1")
        answer = post({"devices": {"SN-1": {"n": number}}}, key=organization.key)
        assert answer.status_code == 200
        assert organization.metadata() == {"SN-1": {"n": number}}
    cursor.execute("SELECT count(DISTINCT nodeport || nodename) FROM citus_shards")
    [[nodes]] = cursor.fetchall()
    assert nodes >= 2


def test_the_grants_are_those_of_the_schema() -> None:
    """They stand in both files; this needs no cluster."""
    grants = [
        re.findall(r"^GRANT.+?;$", path.read_text(), re.MULTILINE | re.DOTALL)
        for path in (ROOT / "schema.sql", ROOT / "deploy" / "citus.sql")
    ]
    assert len(grants[0]) == 2
    assert grants[0] == grants[1]
