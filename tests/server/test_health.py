"""Liveness and readiness, and the reasons for a 503."""

import socket
from dataclasses import replace
from typing import Any

import pytest
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database

UNREACHABLE = "postgresql://127.0.0.1:1/unreachable"
SCHEMA = "The schema is missing or out of date: run flask init-db"


def get(config: Config, path: str) -> tuple[int, Any]:
    response = create_app(config).test_client().get(path)
    return response.status_code, response.json


def not_ready(reason: str) -> tuple[int, dict[str, str]]:
    return 503, {"error": reason}


def test_liveness_is_independent_of_database(config: Config) -> None:
    down = replace(config, database_url=UNREACHABLE)
    assert get(down, "/healthz") == (200, {"status": "ok"})


def test_service_is_ready(config: Config) -> None:
    assert get(config, "/readyz") == (200, {"status": "ready"})


def test_unreachable_database_is_reported_and_logged(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    down = replace(config, database_url=UNREACHABLE)
    assert get(down, "/readyz") == not_ready("PostgreSQL cannot be reached")
    assert "Connection refused" in caplog.text


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"dbname": "template1"}, SCHEMA),
        (
            {"options": "-c default_transaction_read_only=on"},
            "PostgreSQL is read-only",
        ),
    ],
    ids=["no tables", "read-only"],
)
def test_unusable_database_is_not_ready(
    option: dict[str, str], reason: str, direct_url: str
) -> None:
    config = Config(make_dsn(direct_url, **option))
    assert get(config, "/readyz") == not_ready(reason)


def test_outdated_schema_is_not_ready(config: Config, cursor: Cursor) -> None:
    """Release 1.0.0 did not require the column api_keys.id."""
    cursor.execute("REVOKE SELECT (id) ON api_keys FROM bulk_metadata_service")
    try:
        assert get(config, "/readyz") == not_ready(SCHEMA)
    finally:
        cursor.execute("GRANT SELECT (id) ON api_keys TO bulk_metadata_service")


def test_unresponsive_database_is_queried_once(config: Config) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/silent"
        client = create_app(replace(config, database_url=url)).test_client()
        for _ in range(2):
            response = client.get("/readyz")
            assert response.status_code == 503
            assert response.json == {"error": "PostgreSQL does not respond"}
        silent.settimeout(10)
        silent.accept()[0].close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_exhausted_pool_is_not_ready(config: Config) -> None:
    app = create_app(replace(config, pool_size=1))
    database: Database = app.extensions["database"]

    def check(_: Cursor) -> tuple[int, Any]:
        response = app.test_client().get("/readyz")
        return response.status_code, response.json

    assert database.run(check) == not_ready("All connections are in use")
    assert app.test_client().get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_other_method_is_rejected(config: Config, path: str) -> None:
    response = create_app(config).test_client().post(path)
    assert (response.status_code, response.json) == (
        405,
        {"error": "Method Not Allowed"},
    )
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
