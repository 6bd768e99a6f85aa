"""Authentication: valid API keys, and the same response for all others."""

from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from app import create_app
from bulk_metadata.api import routes
from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest
from tests.conftest import Organization, Post
from tests.support.service import PATH

UNAUTHORIZED = {"error": "Invalid or missing API key"}
# The checksum is valid.
UNKNOWN = "tlm_0000000000000000000000000000000000000000959bb896"


def invalid_keys(key: str) -> dict[str, str]:
    return {
        "empty": "",
        "unknown": UNKNOWN,
        "truncated": key[:-1],
        "longer": key + "0",
        "wrong checksum": key[:-1] + ("0" if key[-1] != "0" else "1"),
        "other case": key.upper(),
        "without its prefix": key.removeprefix("tlm_"),
        "two headers, joined": f"{key},{key}",
        "not ASCII": "tlm_é\xff",
        "SQL": "' OR 1=1 --",
        "8 KB": "tlm_" + "a" * 8192,
        "its own digest": "\\x00",
        "blank": " ",
        "other digits": "tlm_" + "٣" * 48,
    }


@pytest.mark.parametrize("case", invalid_keys("tlm_" + "0" * 48))
def test_invalid_key_is_rejected(case: str, post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    before = acme.rows()
    response = post({"devices": {"SN-1": {}}}, key=invalid_keys(acme.key)[case])
    assert (response.status_code, response.json) == (401, UNAUTHORIZED)
    assert acme.rows() == before


def test_missing_key_is_rejected(client: FlaskClient, acme: Organization) -> None:
    response = client.post(PATH, data='{"devices": {"SN-1": {}}}')
    assert (response.status_code, response.json) == (401, UNAUTHORIZED)


def test_key_in_query_string_is_ignored(
    client: FlaskClient, acme: Organization
) -> None:
    response = client.post(f"{PATH}?x-api-key={acme.key}", data="{}")
    assert (response.status_code, response.json) == (401, UNAUTHORIZED)


def test_revoked_key_is_rejected_immediately(
    post: Post, acme: Organization, cursor: Cursor
) -> None:
    assert post({"devices": {"SN-1": {}}}).status_code == 200
    cursor.execute("UPDATE api_keys SET revoked_at = now()")
    assert post({"devices": {"SN-1": {}}}).json == UNAUTHORIZED


@pytest.mark.parametrize(
    "body", [b'{"devices": {"SN-1": {"late": true}}}', b'{"devices": {"SN-1": []}}']
)
def test_key_revoked_before_end_of_body_is_rejected(
    client: FlaskClient, acme: Organization, body: bytes
) -> None:
    class Body(BytesIO):
        def readinto(self, buffer: Any) -> int:
            acme.cursor.execute("UPDATE api_keys SET revoked_at = now()")
            return super().readinto(buffer)

    acme.insert("SN-1")
    headers = {"x-api-key": acme.key}
    response = client.post(
        PATH, input_stream=Body(body), content_length=len(body), headers=headers
    )
    assert (response.status_code, response.json) == (401, UNAUTHORIZED)
    assert acme.metadata() == {"SN-1": {}}


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (b"{", ""),
        (b'{"devices": {}}', ""),
        (b"x" * 11_000_000, ""),
        (b'{"devices": {"": {}}}', ""),
        (b'{"devices": {"SN-1": {}}}', "?dryRun=true"),
        (b'{"devices": {"SN-1": {}}}', "?dryRun=maybe"),
    ],
    ids=lambda value: value[:30],
)
def test_revoked_key_precedes_other_errors(
    body: bytes, query: str, post: Post, acme: Organization, cursor: Cursor
) -> None:
    assert post({"devices": {"SN-1": {}}}).status_code == 200
    cursor.execute("UPDATE api_keys SET revoked_at = now()")
    response = post(body, query=query)
    assert (response.status_code, response.json) == (401, UNAUTHORIZED)


def test_key_is_looked_up_again_after_maximum_age(
    post: Post,
    acme: Organization,
    globex: Organization,
    cursor: Cursor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def status() -> int:
        return post({"devices": {"SN-1": {}}}).status_code

    def move_key(organization: Organization) -> None:
        cursor.execute(
            "UPDATE api_keys SET organization_id = %s WHERE key_hash = %s",
            (organization.id, digest(acme.key)),
        )

    monkeypatch.setattr(routes, "MAX_KEY_AGE", 3600)
    assert status() == 200
    move_key(globex)
    # The update is rejected, because the organization is that of the last lookup.
    assert [status(), status()] == [401, 200]
    monkeypatch.setattr(routes, "MAX_KEY_AGE", 0)
    move_key(acme)
    assert status() == 200


def test_expired_key_is_rejected_immediately(
    post: Post, acme: Organization, cursor: Cursor
) -> None:
    key = acme.create_key(expires_in="1 hour")
    assert post({"devices": {"SN-1": {}}}, key=key).status_code == 200
    cursor.execute("UPDATE api_keys SET expires_at = now() WHERE expires_at > now()")
    assert post({"devices": {"SN-1": {}}}, key=key).json == UNAUTHORIZED


def test_organization_can_have_several_keys(post: Post, acme: Organization) -> None:
    acme.insert("SN-1")
    for key in (acme.key, acme.create_key(), acme.create_key(expires_in="90 days")):
        response = post({"devices": {"SN-1": {"key": "works"}}}, key=key)
        assert response.status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"devices": {}}', b"\xff", b"x" * 11_000_000]
)
def test_authentication_precedes_body_validation(body: bytes, post: Post) -> None:
    response = post(body, key=UNKNOWN)
    assert (response.status_code, response.json) == (401, UNAUTHORIZED)


def test_only_digest_of_key_is_stored(acme: Organization, cursor: Cursor) -> None:
    cursor.execute("SELECT row_to_json(api_keys)::text FROM api_keys")
    [[stored]] = cursor.fetchall()
    assert acme.key not in stored
    assert acme.key.encode().hex() not in stored


def test_malformed_key_is_rejected_without_database() -> None:
    app: Flask = create_app(Config(database_url="postgresql://127.0.0.1:1/down"))
    client = app.test_client()
    malformed = client.post(PATH, headers={"x-api-key": "tlm_mistyped"})
    assert (malformed.status_code, malformed.json) == (401, UNAUTHORIZED)
    # With a valid checksum, the database is queried.
    assert client.post(PATH, headers={"x-api-key": UNKNOWN}).status_code == 500
