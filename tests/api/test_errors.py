"""Error responses: routing errors, and failures that are only logged."""

import io

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from tests.conftest import Organization, Post
from tests.support.service import PATH


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        PATH + "/",
        PATH.replace("/ext", "//ext"),
        PATH.upper(),
        PATH + "%00",
        "/%0d%0aLog: x",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_path_is_not_found(method: str, path: str, client: FlaskClient) -> None:
    response = client.open(path, method=method)
    assert (response.status_code, response.json) == (404, {"error": "Not Found"})


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "X"])
def test_other_method_is_not_allowed(method: str, client: FlaskClient) -> None:
    response = client.open(PATH, method=method)
    assert response.status_code == 405
    assert response.json == {"error": "Method Not Allowed"}
    assert response.headers["Allow"] == "POST"


def test_head_is_not_allowed(client: FlaskClient) -> None:
    response = client.head(PATH)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


def test_failure_is_logged_but_not_sent(
    post: Post, acme: Organization, cursor: Cursor, log: io.StringIO
) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    cursor.execute("ALTER TABLE devices RENAME COLUMN identifier TO serial")
    try:
        response = post({"devices": {"SN-1": {"secret": "metadata"}}})
    finally:
        cursor.execute("ALTER TABLE devices RENAME COLUMN serial TO identifier")
    assert response.status_code == 500
    assert response.json == {"error": "Internal server error"}
    assert "42703: column devices.identifier does not exist" in log.getvalue()
    assert "secret" not in log.getvalue()
    assert acme.key not in log.getvalue()
    assert acme.rows() == before
