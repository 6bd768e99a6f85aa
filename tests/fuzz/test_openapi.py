"""The OpenAPI description and the service say the same."""

import json
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import schemathesis
from jsonschema_rs import Draft202012Validator
from schemathesis import Case, CheckFunction, Response
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

from tests.conftest import Organization
from tests.support.service import PATH, ROOT, Service
from tests.system.test_readme import ERRORS

DESCRIPTION: dict[str, Any] = json.loads(
    (ROOT / "bulk_metadata" / "api" / "openapi.json").read_text()
)
OPERATION: dict[str, Any] = DESCRIPTION["paths"][PATH]["post"]
SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION)


def contents() -> list[dict[str, Any]]:
    """Return the descriptions of the request body and of the response bodies."""
    bodies = [OPERATION["requestBody"], *OPERATION["responses"].values()]
    return [body["content"]["application/json"] for body in bodies]


def test_openapi_document_is_valid() -> None:
    assert DESCRIPTION["openapi"].startswith("3.1.")
    SCHEMA.validate()


def test_openapi_examples_match_schemas() -> None:
    for content in contents():
        # References lead into the components, so the whole comes along.
        schema = {**content["schema"], "components": DESCRIPTION["components"]}
        validator = Draft202012Validator(schema, validate_formats=True)
        for example in content["examples"].values():
            validator.validate(example["value"])


def test_openapi_messages_match_readme() -> None:
    messages = {
        example["value"]["error"]: int(status)
        for status, response in OPERATION["responses"].items()
        if status != "200"
        for example in response["content"]["application/json"]["examples"].values()
    }
    assert messages == ERRORS


def identifiers(case: Case[Any]) -> list[str]:
    """Return the identifiers in the body that a device can have."""
    devices = case.body.get("devices") if isinstance(case.body, dict) else None
    names = {name.strip() for name in devices} if isinstance(devices, dict) else set()
    return sorted(
        name
        for name in names
        if name and "\0" not in name and len(name.encode()) <= 1024
    )


def is_excused(response: Response) -> bool:
    """Return whether the request has an error that a JSON schema cannot express."""
    body, message = response.request.body, response.json().get("error", "")
    if not isinstance(body, bytes):
        return False
    if message.endswith("must not contain the NUL character"):
        return b"\\u0000" in body
    if message.endswith("number out of range"):
        return re.search(rb"[0-9]e-3[0-9]{2}", body) is not None
    return False


@pytest.mark.slow(reason="sends hundreds of generated requests")
@SCHEMA.parametrize()
def test_generated_requests_match_openapi(
    case: Case[Any], service: Service, acme: Organization, globex: Organization
) -> None:
    """Send valid and invalid requests, with all checks of schemathesis.

    OpenAPI cannot express ignored parameters, so such requests may be accepted.
    """
    acme.cursor.execute("DELETE FROM devices")
    # Every second device exists, and all exist in the other organization.
    existing = identifiers(case)[::2]
    acme.insert("not in any request", *existing)
    globex.insert("not in any request", *identifiers(case))
    before = globex.rows()
    url, key = f"http://127.0.0.1:{service.port}", {"x-api-key": acme.key}
    options: dict[str, Any] = {"base_url": url, "headers": key, "timeout": 30}
    response = case.call(**options)
    excluded: list[CheckFunction] = []
    if is_excused(response):
        excluded.append(positive_data_acceptance)
    if case.query.keys() - {"dryRun"}:
        excluded.append(negative_data_rejection)
    case.validate_response(
        response,
        excluded_checks=excluded,
        headers=key,
        transport_kwargs=options,
    )
    is_done = response.status_code == 200
    query = urlsplit(str(response.request.url)).query
    is_dry_run = parse_qs(query).get("dryRun") == ["true"]
    assert ("dryRun" in response.json()) == (is_done and is_dry_run)
    assert globex.rows() == before
    assert acme.updated() == (set(existing) if is_done and not is_dry_run else set())
