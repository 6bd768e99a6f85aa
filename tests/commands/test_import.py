"""``flask import-devices``: all of a file, or nothing, and never over what exists."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from psycopg2.extensions import cursor as Cursor
from psycopg2.extensions import make_dsn

from app import create_app
from bulk_metadata.config import Config
from tests.conftest import Organization
from tests.support.service import ROOT

Import = Callable[..., Result]


@pytest.fixture
def import_file(config: Config, owner_url: str, tmp_path: Path) -> Import:
    """Import a file of this name and content into Acme."""

    def import_file(name: str, content: str | bytes, **options: str) -> Result:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        url = make_dsn(owner_url, **options)
        cli = create_app(replace(config, database_url=url)).test_cli_runner()
        return cli.invoke(args=["import-devices", "Acme", str(path)])

    return import_file


def imported(result: Result, new: int, existing: int = 0) -> bool:
    assert result.output == (
        f'Imported into "Acme": {new} new, '
        f"{existing} that existed already and were left alone.\n"
    )
    return result.exit_code == 0


def test_csv(import_file: Import, acme: Organization) -> None:
    content = (
        "identifier,metadata\n"
        'SN-1,"{""location"": ""Building A, left"", ""n"": 1.10}"\n'
        "\n"
        "  SN-2 ,\n"
        'SN-3,"{\n  ""a"": ""tab\\t and \\\\ and \\u00e9"",\n  ""b"": []}"\n'
        '"S""N,\n4",{}\n'
    )
    assert imported(import_file("devices.csv", content), 4)
    assert acme.texts() == {
        "SN-1": '{"n": 1.10, "location": "Building A, left"}',
        "SN-2": "{}",
        "SN-3": '{"a": "tab\\t and \\\\ and é", "b": []}',
        'S"N,\n4': "{}",
    }


@pytest.mark.parametrize(
    "content",
    [
        "identifier\nSN-1\nSN-2\n",
        "identifier\r\nSN-1\r\nSN-2",
        "\ufeffidentifier\nSN-1\nSN-2",
        "metadata,identifier\n,SN-1\n{},SN-2",
        '"identifier"\n"SN-1"\n\n\n"SN-2"\n\n',
    ],
)
def test_csv_as_programs_write_it(
    content: str, import_file: Import, acme: Organization
) -> None:
    assert imported(import_file("DEVICES.CSV", content), 2)
    assert acme.metadata() == {"SN-1": {}, "SN-2": {}}


@pytest.mark.parametrize("name", ["devices.ndjson", "devices.jsonl"])
def test_ndjson(name: str, import_file: Import, acme: Organization) -> None:
    content = (
        '\ufeff{"identifier": "SN-1", "metadata": {"n": 12345678901234567890.10}}\r\n'
        "\n"
        '{"metadata": {"a": "\\u0001 \\\\ \\n"}, "identifier": " SN-2\\u3000"}\n'
        '{"identifier": "%s\\t\\\\.\\n\\\\N"}'
    )
    assert imported(import_file(name, content), 3)
    assert acme.texts() == {
        "SN-1": '{"n": 12345678901234567890.10}',
        "SN-2": '{"a": "\\u0001 \\\\ \\n"}',
        "%s\t\\.\n\\N": "{}",
    }


def test_devices_that_exist_are_left_alone_and_counted(
    import_file: Import, acme: Organization, globex: Organization
) -> None:
    acme.insert("SN-1", metadata={"kept": True})
    globex.insert("SN-2", "SN-3")
    before = acme.rows() + globex.rows()
    assert imported(import_file("d.csv", 'identifier,metadata\nSN-1,"{""a"":1}"'), 0, 1)
    assert acme.rows() + globex.rows() == before
    assert imported(import_file("d.csv", "identifier\nSN-3\nSN-1\nSN-2"), 2, 1)
    assert imported(import_file("d.csv", "identifier\nSN-3\nSN-1\nSN-2"), 0, 3)
    assert acme.metadata() == {"SN-1": {"kept": True}, "SN-2": {}, "SN-3": {}}


def test_an_empty_file(import_file: Import, acme: Organization) -> None:
    assert imported(import_file("d.ndjson", ""), 0)
    assert imported(import_file("d.csv", "identifier\n"), 0)


HEADER = 'line 1: the header must be "identifier", or "identifier" and "metadata", not '
NUL_TEXT = "must not contain the NUL character"

BAD_CSV: dict[str, tuple[str | bytes, str]] = {
    "no header": ("", HEADER),
    "another header": ("serial\nSN-1", HEADER + '"serial"'),
    "a column too many": (
        "identifier,location\nSN-1,A",
        HEADER + '"identifier", "location"',
    ),
    "a column twice": (
        "identifier,identifier\nSN-1,SN-1",
        HEADER + '"identifier", "identifier"',
    ),
    "a semicolon": ("identifier;metadata\nSN-1;{}", HEADER + '"identifier;metadata"'),
    "a cell too many": (
        "identifier\nSN-1\nSN-2,{}",
        "line 3: not as many cells as the header has",
    ),
    "a cell too few": (
        "identifier,metadata\nSN-1,{}\nSN-2",
        "line 3: not as many cells as the header has",
    ),
    "not JSON": (
        "identifier,metadata\nSN-1,{}\nSN-2,{a}",
        "line 3: metadata: JSON is malformed: expected '\"' (byte 1)",
    ),
    "not an object": (
        "identifier,metadata\nSN-1,[]",
        "line 2: metadata must be a JSON object",
    ),
    "no identifier": ("identifier\nSN-1\n \n", "line 3: the identifier is empty"),
    "an unclosed quote": (
        'identifier\nSN-1\n"SN-2\nSN-3\n',
        "line 3: unexpected end of data",
    ),
    "text behind a quote": (
        'identifier\nSN-1\n"SN-2" x\n',
        "line 3: ',' expected after '\"'",
    ),
    "latin-1": ("identifier\nSN-1\nSN-é\n".encode("latin-1"), "line 3: not UTF-8"),
    "UTF-16": ("identifier\nSN-1\n".encode("utf-16"), "line 1: not UTF-8"),
    "bad behind a cell of three lines": (
        'identifier,metadata\nSN-1,"{\n\n}"\nSN-2,1',
        "line 5: metadata must be a JSON object",
    ),
    "bad in a cell of three lines": (
        'identifier,metadata\nSN-1,{}\nSN-2,"[\n\n]"\nSN-3,{}',
        "line 3: metadata must be a JSON object",
    ),
    "a repeated identifier": (
        "identifier\nSN-1\nSN-2\nSN-3\nSN-2\nSN-3\nSN-2",
        'line 5: identifier "SN-2" stands in line 3 already',
    ),
    "an identifier repeated after trimming": (
        "identifier\nSN-1\n SN-1",
        'line 3: identifier "SN-1" stands in line 2 already',
    ),
    "too deep to parse": (
        'identifier,metadata\nSN-1,"' + '{""a"":' * 100_000 + '"',
        "line 2: metadata: nested too deeply",
    ),
    "a NUL in the identifier": (
        "identifier\nSN-\0",
        f"line 2: the identifier {NUL_TEXT}",
    ),
    "a long identifier": (
        "identifier\n" + "é" * 512 + "\n" + "é" * 513,
        "line 3: the identifier is over 1024 bytes",
    ),
    "a long line": (
        b"identifier\n" + b"x" * 10_485_761,
        "line 2: longer than 10485760 bytes",
    ),
    "a long cell": (
        b'identifier\n"' + b"x\n" * 5_300_000,
        "line 2: field larger than field limit (10485760)",
    ),
}

BAD_NDJSON: dict[str, tuple[str | bytes, str]] = {
    "not JSON": (
        '{"identifier": "SN-1"}\n\n{"identifier"}',
        "line 3: JSON is malformed: expected ':' (byte 13)",
    ),
    "not an object": ('["SN-1"]', "line 1: Expected `object`, got `array`"),
    "no identifier": (
        '{"metadata": {}}',
        "line 1: Object missing required field `identifier`",
    ),
    "a number for an identifier": (
        '{"identifier": 1}',
        "line 1: Expected `str`, got `int` - at `$.identifier`",
    ),
    "an unknown member": (
        '{"identifier": "SN-1", "meta": {}}',
        "line 1: Object contains unknown field `meta`",
    ),
    "metadata null": (
        '{"identifier": "SN-1", "metadata": null}',
        "line 1: metadata must be a JSON object",
    ),
    "a NUL": (
        '{"identifier": "SN-1", "metadata": {"a": "\\u0000"}}',
        f"line 1: metadata: {NUL_TEXT}",
    ),
    "a number out of range": (
        '{"identifier": "SN-1", "metadata": {"a": 1e309}}',
        "line 1: metadata: number out of range",
    ),
    "too deep to parse": (
        '{"identifier": "SN-1", "metadata": {"a": ' + "[" * 100_000,
        "line 1: metadata: nested too deeply",
    ),
}


@pytest.mark.parametrize(
    ("suffix", "case"),
    [("csv", case) for case in BAD_CSV] + [("ndjson", case) for case in BAD_NDJSON],
)
def test_a_bad_line_is_named_and_nothing_imported(
    suffix: str, case: str, import_file: Import, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-0")
    before = acme.rows()
    content, reason = {"csv": BAD_CSV, "ndjson": BAD_NDJSON}[suffix][case]
    result = import_file(f"devices.{suffix}", content)
    assert result.exit_code == 1
    assert result.output == f"Error: {tmp_path}/devices.{suffix}, {reason}\n"
    assert acme.rows() == before


def test_a_line_too_deep_for_the_server_is_named(
    import_file: Import, acme: Organization, tmp_path: Path
) -> None:
    deep = '{"line 5":' * 800 + "1" + "}" * 800
    lines = [f'{{"identifier": "SN-{number}"}}' for number in range(60_000)]
    lines[50_000] = f'{{"identifier": "SN-X", "metadata": {deep}}}'
    result = import_file(
        "devices.ndjson", "\n".join(lines), options="-c max_stack_depth=100kB"
    )
    assert result.exit_code == 1
    assert result.output == (
        f"Error: {tmp_path}/devices.ndjson, line 50001: metadata: nested too deeply\n"
    )
    assert acme.rows() == []


@pytest.mark.parametrize("name", ["devices", "devices.txt", "devices.csv.gz"])
def test_the_name_tells_the_format(
    name: str, import_file: Import, acme: Organization
) -> None:
    result = import_file(name, "identifier\nSN-1")
    assert result.exit_code == 1
    assert "the name must end in .csv, .ndjson or .jsonl" in result.output


def test_a_missing_file_or_organization_is_named(
    config: Config, owner_url: str, import_file: Import, cursor: Cursor
) -> None:
    cli = create_app(replace(config, database_url=owner_url)).test_cli_runner()
    result = cli.invoke(args=["import-devices", "Acme", "missing.csv"])
    assert result.exit_code == 2
    assert "'missing.csv' does not exist" in result.output
    assert (
        'The organization "Acme" does not exist' in import_file("d.ndjson", "").output
    )


def test_what_is_no_file_is_refused(
    config: Config, owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    pipe = tmp_path / "devices.csv"
    os.mkfifo(pipe)
    cli = create_app(replace(config, database_url=owner_url)).test_cli_runner()
    result = cli.invoke(args=["import-devices", "Acme", str(pipe)])
    assert result.exit_code == 1
    assert result.output == f"Error: {pipe} is not a regular file.\n"


def test_progress_shows_on_a_terminal_only(
    owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    path = tmp_path / "devices.ndjson"
    with path.open("w") as file:
        for number in range(60_000):
            line: dict[str, Any] = {"identifier": f"SN-{number}"}
            print(json.dumps(line), file=file)
    terminal, stderr = pty.openpty()
    process = subprocess.run(
        [sys.executable, "-m", "flask", "import-devices", "Acme", str(path)],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": owner_url},
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=60,
        text=True,
    )
    os.close(stderr)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert process.stdout == (
        'Imported into "Acme": 60000 new, 0 that existed already and were left alone.\n'
    )
    assert "Reading" in shown
    assert "100%" in shown
    assert "Storing 60000 devices ..." in shown
    assert len(acme.rows()) == 60_000
