"""Fixtures of the tests on a Citus cluster, which replace those of all tests."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from flask import Flask
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.schema import apply_schema
from tests.conftest import connect
from tests.support.citus import CitusCluster, citus, statements

TABLES = "devices, api_keys, organizations"
LOGIN = {"user": "bulk_metadata_service", "password": "for-tests-only"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[CitusCluster]:
    with citus() as cluster:
        with closing(connect(cluster.url)) as connection:
            prepare(connection.cursor())
        yield cluster
        with closing(connect(cluster.url)) as connection:
            connection.cursor().execute(f"DROP TABLE {TABLES}")


def prepare(cursor: Cursor) -> None:
    """Create the tables and distribute them, both repeatedly."""
    cursor.execute("SELECT to_regclass('organizations') IS NULL")
    assert cursor.fetchall() == [(True,)], "TEST_CITUS_URL: the database is not empty"
    for _ in range(2):
        apply_schema(cursor)
        for statement in statements():
            cursor.execute(statement)
    cursor.execute("ALTER ROLE bulk_metadata_service PASSWORD %s", (LOGIN["password"],))


@pytest.fixture(scope="session")
def owner_url(cluster: CitusCluster) -> str:
    return cluster.url


@pytest.fixture(scope="session")
def config(owner_url: str) -> Config:
    return Config(database_url=make_dsn(owner_url, **LOGIN))


@pytest.fixture(scope="session")
def app(config: Config) -> Flask:
    return create_app(config)


@pytest.fixture(scope="session")
def connection(owner_url: str) -> Iterator[Connection]:
    with closing(connect(owner_url)) as connection:
        yield connection
