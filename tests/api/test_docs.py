"""The API's description and its page, as they are served."""

import json

import pytest
from flask.testing import FlaskClient

from tests.support.service import ROOT

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def test_openapi_json_is_served(client: FlaskClient) -> None:
    with client.get("/openapi.json") as response:
        assert response.mimetype == "application/json"
        assert (
            response.data
            == (ROOT / "bulk_metadata" / "api" / "openapi.json").read_bytes()
        )
        assert json.loads(response.data)["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    ("path", "mimetype"),
    [
        ("/docs", "text/html"),
        ("/docs/page.css", "text/css"),
        ("/docs/page.js", "text/javascript"),
        ("/docs/swagger-ui.css", "text/css"),
        ("/docs/swagger-ui-bundle.js", "text/javascript"),
        ("/docs/favicon-32x32.png", "image/png"),
        ("/openapi.json", "application/json"),
    ],
)
def test_documentation_has_strict_headers(
    client: FlaskClient, path: str, mimetype: str
) -> None:
    with client.get(path) as response:
        assert response.status_code == 200
        assert response.mimetype == mimetype
        assert response.headers["Content-Security-Policy"] == POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        known = {"If-None-Match": response.headers["ETag"]}
    with client.get(path, headers=known) as response:
        assert response.status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/index.html",
        "/docs/swagger-ui.js",
        "/docs/__init__.py",
        "/docs/..%2fopenapi.json",
        "/docs/../../app.py",
    ],
)
def test_other_documentation_paths_are_not_found(
    client: FlaskClient, path: str
) -> None:
    response = client.get(path)
    assert (response.status_code, response.json) == (404, {"error": "Not Found"})


@pytest.mark.parametrize("path", ["/docs", "/docs/page.js", "/openapi.json"])
def test_documentation_is_read_only(client: FlaskClient, path: str) -> None:
    response = client.post(path)
    assert response.status_code == 405
    assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD"}
