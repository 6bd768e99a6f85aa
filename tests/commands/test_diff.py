"""``flask diff-devices``: the changes that a push of a file would make."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.commands.conftest import Flask
from tests.conftest import Organization

Diff = Callable[..., Result]


@pytest.fixture
def diff(flask: Flask, acme: Organization, tmp_path: Path) -> Diff:
    """Compare Acme with a file of this content."""
    acme.insert("SN-1", metadata={"a": 1, "b": {"c": 2, "d.e": 3}, "f": [1]})
    acme.insert("SN-2", "SN-3", metadata={"a": 1})

    def diff(content: str, *arguments: str, name: str = "fleet.csv") -> Result:
        path = tmp_path / name
        path.write_text(content)
        return flask("diff-devices", "Acme", str(path), *arguments)

    return diff


TABLE = (
    "identifier;a:number;b.c:number;b.d\\.e:number;g.h\n"
    "SN-1;1.0;2;4;x\x1b[2J\nSN-2;1;;;\nSN-4;1;;;\n"
)


def test_changes_are_printed_by_device(diff: Diff, acme: Organization) -> None:
    before = acme.rows()
    result = diff(TABLE)
    assert result.exit_code == 2
    assert result.output.splitlines() == [
        "SN-1 (line 2): changed",
        "  ~ a: 1 -> 1.0",
        "  ~ b.d\\.e: 3 -> 4",
        "  - f: [1]",
        '  + g: {"h": "x\\u001b[2J"}',
        "SN-2 (line 3): unchanged",
        "SN-4 (line 4): not found",
        "3 devices: 1 changed, 1 unchanged, 1 not found.",
    ]
    assert acme.rows() == before


def test_changes_are_printed_as_json(diff: Diff) -> None:
    result = diff(TABLE, "--json")
    assert result.exit_code == 2
    assert [json.loads(line) for line in result.output.splitlines()] == [
        {
            "line": 2,
            "identifier": "SN-1",
            "status": "changed",
            "added": {"g": {"h": "x\x1b[2J"}},
            "removed": {"f": [1]},
            "changed": {"a": {"old": 1, "new": 1}, "b.d\\.e": {"old": 3, "new": 4}},
        },
        {"line": 3, "identifier": "SN-2", "status": "unchanged"},
        {"line": 4, "identifier": "SN-4", "status": "not_found"},
        {"summary": {"devices": 3, "changed": 1, "unchanged": 1, "notFound": 1}},
    ]
    assert '"new":1.0' in result.output


def test_exported_file_has_no_changes(
    diff: Diff, flask: Flask, acme: Organization
) -> None:
    acme.insert(*(f"TRK-{number:02}" for number in range(30)))
    result = diff(flask("export-devices", "Acme").output, name="fleet.ndjson")
    assert result.exit_code == 0
    *devices, summary = result.output.splitlines()
    assert devices[0] == "SN-1 (line 1): unchanged"
    assert len(devices) == 20
    assert summary == "33 devices: 0 changed, 33 unchanged, 0 not found."


def test_only_unknown_devices_are_no_changes(diff: Diff) -> None:
    result = diff("identifier;a\nSN-9;x\n")
    assert result.exit_code == 0
    assert result.output.endswith("1 device: 0 changed, 0 unchanged, 1 not found.\n")


def test_file_with_error_is_not_compared(diff: Diff) -> None:
    result = diff("identifier;a\nSN-1;\nSN-2;x\nSN-2;x\n")
    assert result.exit_code == 1
    assert 'line 2, device "SN-1": the device has no metadata.' in result.output
    assert 'line 4, device "SN-2": the same identifier as in line 3.' in result.output
    assert result.output.endswith("Error: 2 errors. Nothing was compared.\n")
    result = diff("identifier;a\nSN-2;\n", "--allow-empty")
    assert result.exit_code == 2
    assert "  - a: 1" in result.output


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ([], "Missing argument 'FILE'."),
        (["missing.csv"], "File 'missing.csv' does not exist."),
        (["pyproject.toml"], 'Unknown file name extension ".toml".'),
    ],
)
def test_invalid_command_does_not_look_like_changes(
    flask: Flask, acme: Organization, file: list[str], message: str
) -> None:
    result = flask("diff-devices", "Acme", *file)
    assert result.exit_code == 1
    assert message in result.output
