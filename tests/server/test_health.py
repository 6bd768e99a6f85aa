"""Whether the service says that it lives, and that it is ready, and why it is not."""

import socket
from dataclasses import replace
from typing import Any

import pytest
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database


def get(config: Config, path: str) -> tuple[int, Any]:
    response = create_app(config).test_client().get(path)
    return response.status_code, response.json


def test_it_lives_whatever_the_database_does(config: Config) -> None:
    down = replace(config, database_url="postgresql://127.0.0.1:1/down")
    assert get(down, "/healthz") == (200, {"status": "ok"})


def test_it_is_ready(config: Config) -> None:
    assert get(config, "/readyz") == (200, {"status": "ready"})


def not_ready(sentence: str) -> tuple[int, dict[str, str]]:
    return 503, {"error": sentence}


def test_a_database_out_of_reach(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    down = replace(config, database_url="postgresql://127.0.0.1:1/down")
    assert get(down, "/readyz") == not_ready("PostgreSQL cannot be reached")
    assert "Connection refused" in caplog.text


SCHEMA = "The schema is missing or out of date: run flask init-db"


def test_a_database_without_tables(direct_url: str) -> None:
    elsewhere = Config(make_dsn(direct_url, dbname="template1"))
    assert get(elsewhere, "/readyz") == not_ready(SCHEMA)


def test_a_schema_that_is_too_old(config: Config, cursor: Cursor) -> None:
    """Release 1.0.0 did not need the keys' ids."""
    cursor.execute("REVOKE SELECT (id) ON api_keys FROM bulk_metadata_service")
    try:
        assert get(config, "/readyz") == not_ready(SCHEMA)
    finally:
        cursor.execute("GRANT SELECT (id) ON api_keys TO bulk_metadata_service")


def test_a_server_that_only_reads(direct_url: str) -> None:
    standby = make_dsn(direct_url, options="-c default_transaction_read_only=on")
    assert get(Config(standby), "/readyz") == not_ready("PostgreSQL only reads")


def test_a_server_that_never_answers(config: Config) -> None:
    """Who asks meanwhile waits for the same answer, and takes no connection more."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/silent"
        client = create_app(replace(config, database_url=url)).test_client()
        for _ in range(2):
            response = client.get("/readyz")
            assert response.status_code == 503
            assert response.json == {"error": "PostgreSQL does not answer"}
        silent.settimeout(10)
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_a_pool_in_use(config: Config) -> None:
    app = create_app(replace(config, pool_size=1))
    database: Database = app.extensions["database"]

    def ask(_: Cursor) -> tuple[int, Any]:
        response = app.test_client().get("/readyz")
        return response.status_code, response.json

    assert database.run(ask) == not_ready("All connections are in use")
    assert app.test_client().get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_another_method_is_refused(config: Config, path: str) -> None:
    response = create_app(config).test_client().post(path)
    assert (response.status_code, response.json) == (
        405,
        {"error": "Method Not Allowed"},
    )
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
