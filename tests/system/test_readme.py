"""The README and the docs match the service."""

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from bulk_metadata.telemetry import access_log
from tests.conftest import Organization, Post
from tests.support.service import PATH, ROOT, Service

README = (ROOT / "README.md").read_text()
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text()
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()


def table(document: str, header: str) -> list[list[str]]:
    """Return the cells of the table with this header, row by row."""
    rows = document.split(f"\n{header}\n")[1].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


# A query string or a body that causes each error.
QUERIES = {
    'Unknown parameter "dry_run": it is spelt dryRun': "dry_run=true",
    "dryRun must be given once": "dryRun=true&dryRun=true",
    'dryRun must be true or false, not "yes"': "dryRun=yes",
}
BODIES: dict[str, Any] = {
    "Invalid JSON payload": b"{",
    "devices is required and must be an object mapping identifiers to metadata": [],
    "devices must contain at least one entry": {"devices": {}},
    "Too many devices. Maximum 1000 per request": {
        "devices": {str(number): {} for number in range(1001)}
    },
    'Invalid metadata for device "SN-1": must be a JSON object': {
        "devices": {"SN-1": None}
    },
    'Invalid metadata for device "SN-1": must not contain the NUL character': {
        "devices": {"SN-1": {"a": "\0"}}
    },
    'Invalid metadata for device "SN-1": number out of range': (
        b'{"devices": {"SN-1": {"a": 1e309}}}'
    ),
    "Request body too large. Maximum 10485760 bytes": b" " * 10_485_761,
}
ERRORS = {
    message: int(status)
    for status, message, _ in table(README, '| status | `{"error": ...}` | condition |')
}


@pytest.mark.parametrize("message", [*QUERIES, *BODIES])
def test_error_table_matches_responses(message: str, post: Post) -> None:
    response = post(BODIES.get(message, b"{}"), query=QUERIES.get(message, ""))
    assert response.json == {"error": message}
    assert response.status_code == ERRORS[message]


def test_error_table_is_complete(post: Post, config: Config) -> None:
    client = create_app(
        replace(config, database_url="postgresql://127.0.0.1:1/down")
    ).test_client()
    key = {"x-api-key": "tlm_0000000000000000000000000000000000000000959bb896"}
    responses = [
        client.post(PATH),
        client.post("/"),
        client.get(PATH),
        client.post(PATH, headers=key),
    ]
    rest = {
        response.json["error"]: response.status_code
        for response in responses
        if response.json
    }
    assert rest == {
        message: status
        for message, status in ERRORS.items()
        if message not in QUERIES | BODIES
    }


def test_settings_table_matches_config() -> None:
    documented = [
        (name, default)
        for name, default, _ in table(DEPLOYMENT, "| setting | default | meaning |")
    ]
    assert documented == [
        (field.name.upper(), "" if field.name == "database_url" else str(field.default))
        for field in fields(Config)
    ]


def test_metrics_table_is_complete(service: Service) -> None:
    """The table has exactly the exported metrics, with their types and labels."""
    service.request("{}")
    text = requests.get(
        f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=10
    ).text
    exported = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        name = family.name + ("_total" if family.type == "counter" else "")
        shown = ",".join(sorted(labels - {"le"}))
        exported[name + (f"{{{shown}}}" if shown else "")] = family
    documented = dict(table(MONITORING, "| metric | meaning |"))
    assert documented.keys() == exported.keys()
    for name, family in exported.items():
        is_histogram = documented[name].startswith("histogram: ")
        assert is_histogram == (family.type == "histogram"), name
    for label in ("result", "cause"):
        [name] = [name for name in exported if name.endswith(f"_total{{{label}}}")]
        values = {sample.labels[label] for sample in exported[name].samples}
        assert values
        assert values <= set(re.findall(r"\w+", documented[name]))


def test_access_log_example_matches_entry(service: Service) -> None:
    [line] = re.findall(r"```json\n(.+\}\n)```", MONITORING)
    example = json.loads(line)
    service.request("{}")
    # The same members in the same order, with valid types.
    assert list(example) == list(service.requests[-1])
    form = msgspec.json.Decoder(access_log.Entry, strict=True)
    assert msgspec.json.encode(form.decode(line)).decode() == line.strip()


def test_health_table_matches_responses(service: Service) -> None:
    for path, _ in table(MONITORING, "| path | response |"):
        url = f"http://127.0.0.1:{service.metrics_port}{path}"
        assert requests.get(url, timeout=10).status_code == 200
        on_api = service.request(method="GET", path=path).status
        assert on_api == (404 if path == "/metrics" else 200)


def test_readiness_reasons_are_in_runbook(direct_url: str) -> None:
    rows = table(RUNBOOK, "| symptom | cause | action |")
    seen = "\n".join(f"`{symptom}`" for symptom, *_ in rows)
    listed = set(re.findall(r"`([A-Z].+?)`", seen))
    only_reads = "-c default_transaction_read_only=on"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = [
            make_dsn(direct_url, dbname="template1"),
            make_dsn(direct_url, options=only_reads),
            "postgresql://127.0.0.1:1/down",
            f"postgresql://127.0.0.1:{silent.getsockname()[1]}/silent",
        ]
        apps = [create_app(Config(url)) for url in urls]
        responses = [app.test_client().get("/readyz") for app in apps]
    reasons = {response.json["error"] for response in responses if response.json}
    assert len(reasons) == 4
    others = {
        "All connections are in use",
        "BulkMetadataDown",
        "Worker (pid:...) was sent SIGKILL!",
    }
    assert listed == reasons | others


def test_paths_in_structure_exist() -> None:
    for names, _ in table(README, "| path | contents |"):
        for name in re.split(r"`, `", names):
            assert (ROOT / name).exists(), name


def test_figures_match_benchmark() -> None:
    section = README.split("\n## Performance\n")[1].split("\n## ")[0]
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    figures = re.findall(r"\*\*(.+?)\*\*", section)
    assert len(figures) == 3
    for figure in figures:
        assert figure in results


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert targets >= {"run", "test", "check"}
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, timeout=60)


@pytest.mark.slow(reason="five commands start Python")
def test_commands_from_init_db_to_import(
    acme: Organization, owner_url: str, tmp_path: Path
) -> None:
    """Start with an empty database, and use the example files unchanged."""
    acme.cursor.execute("TRUNCATE organizations CASCADE")
    [init] = re.findall(r"^flask init-db$", DEPLOYMENT, re.MULTILINE)
    [commands] = re.findall(
        r"```sh\n(flask create-organization.+?)```", DEPLOYMENT, re.S
    )
    csv, ndjson = re.findall(
        r"```\n(identifier,.+?|\{\"identifier.+?)```", DEPLOYMENT, re.S
    )
    for name, content in (("devices.csv", csv), ("devices.ndjson", ndjson)):
        (tmp_path / name).write_text(content)
    again = f"flask import-devices Acme {tmp_path}/devices.ndjson"
    script = "\n".join([init, commands, again]).replace(
        " devices.csv", f" {tmp_path}/devices.csv"
    )
    process = subprocess.run(
        ["bash", "-ec", script],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": owner_url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert lines[1].startswith('Created organization "Acme" with ID ')
    assert lines[2].startswith('Created API key "nightly job" with ID ')
    assert lines[3].startswith('Imported into "Acme": 2 created, 0 skipped')
    assert lines[4].endswith("Acme  nightly job")
    assert lines[5].startswith('Imported into "Acme": 0 created, 2 skipped')
    acme.cursor.execute("SELECT identifier, device_metadata FROM devices ORDER BY 1")
    assert acme.cursor.fetchall() == [
        ("SN-A100", {"location": "Building A"}),
        ("SN-B200", {}),
    ]
