"""``flask import-devices``: all devices of a file or none; existing devices remain."""

import json
import os
import pty
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
import pytest
from click.testing import Result
from psycopg2.extensions import make_dsn

from bulk_metadata.config import Config
from tests.commands.conftest import Flask, run_flask, runner
from tests.conftest import Organization
from tests.support.waiting import wait_until

Import = Callable[..., Result]


@pytest.fixture
def import_file(config: Config, owner_url: str, tmp_path: Path) -> Import:
    """Import a file with this name and content into Acme."""

    def import_file(
        name: str, content: str | bytes, *arguments: str, **connection: str
    ) -> Result:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        flask = runner(config, make_dsn(owner_url, **connection))
        return flask("import-devices", "Acme", str(path), *arguments)

    return import_file


def assert_imported(result: Result, created: int, skipped: int = 0) -> None:
    assert result.output.splitlines()[0] == (
        f'Imported into "Acme": {created} created, '
        f"{skipped} skipped because they already exist."
    )
    assert result.exit_code == 0


def test_metadata_is_stored_verbatim(import_file: Import, acme: Organization) -> None:
    content = (
        "identifier,metadata\n"
        'SN-1,"{""location"": ""Building A, left"", ""n"": 1.10}"\n'
        "\n"
        "  SN-2 ,\n"
        'SN-3,"{\n  ""a"": ""tab\\t and \\\\ and \\u00e9"",\n  ""b"": []}"\n'
        '"S""N,\n4",{}\n'
    )
    assert_imported(import_file("devices.csv", content), 4)
    assert acme.texts() == {
        "SN-1": '{"n": 1.10, "location": "Building A, left"}',
        "SN-2": "{}",
        "SN-3": '{"a": "tab\\t and \\\\ and é", "b": []}',
        'S"N,\n4': "{}",
    }


def test_ndjson_is_stored_verbatim(import_file: Import, acme: Organization) -> None:
    content = (
        '\ufeff{"identifier": "SN-1", "metadata": {"n": 12345678901234567890.10}}\r\n'
        "\n"
        '{"metadata": {"a": "\\u0001 \\\\ \\n"}, "identifier": " SN-2\\u3000"}\n'
        '{"identifier": "%s\\t\\\\.\\n\\\\N"}'
    )
    assert_imported(import_file("devices.jsonl", content), 3)
    assert acme.texts() == {
        "SN-1": '{"n": 12345678901234567890.10}',
        "SN-2": '{"a": "\\u0001 \\\\ \\n"}',
        "%s\t\\.\n\\N": "{}",
    }


def test_existing_devices_are_skipped(
    import_file: Import, acme: Organization, globex: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-1", metadata={"kept": True})
    globex.insert("SN-2", "SN-3")
    before = acme.rows() + globex.rows()
    result = import_file("d.csv", 'identifier,metadata\nSN-1,"{""a"":1}"')
    assert_imported(result, 0, 1)
    assert result.output.splitlines()[1:] == [
        f"To replace their metadata, use: bulk-metadata push {tmp_path}/d.csv"
    ]
    assert acme.rows() + globex.rows() == before
    assert_imported(import_file("d.csv", "identifier\nSN-3\nSN-1\nSN-2"), 2, 1)
    assert_imported(import_file("d.csv", "identifier\nSN-3\nSN-1\nSN-2"), 0, 3)
    assert acme.metadata() == {"SN-1": {"kept": True}, "SN-2": {}, "SN-3": {}}
    result = import_file("d.csv", "identifier\nSN-3\nSN-4", "--json")
    assert json.loads(result.output) == {
        "summary": {"devices": 2, "created": 1, "skipped": 1}
    }


def test_file_without_devices_imports_nothing(
    import_file: Import, acme: Organization
) -> None:
    assert_imported(import_file("d.csv", "identifier\n"), 0)
    assert_imported(import_file("d.json", '{"devices": {}}'), 0)
    result = import_file("d.csv", "")
    assert result.exit_code == 1
    assert "d.csv: the file is empty. Check that the export" in result.output


def test_all_errors_are_reported_and_nothing_is_imported(
    import_file: Import, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-0")
    before = acme.rows()
    content = (
        "identifier,metadata\nSN-1,{}\nSN-2,[]\n3.57E+14,{}\nSN-1,{}\n SN-1 ,{}\n"
        'SN-3,"{""a"": 1e309}"\n'
    )
    result = import_file("d.csv", content)
    assert result.exit_code == 1
    name = f"{tmp_path}/d.csv"
    assert result.output.splitlines() == [
        f'{name}, line 3, device "SN-2": metadata must be a JSON object. '
        'Use a JSON object: {"status": "active"}',
        f'{name}, line 4: the identifier "3.57E+14" is a number in scientific '
        "notation. Format the column as text, enter or import the serial numbers "
        "again, and save the file.",
        f'{name}, line 7, device "SN-3": metadata: number out of range. '
        "Correct the value.",
        f'{name}, line 5, device "SN-1": the same identifier as in line 2. '
        "Keep one entry for each device.",
        f'{name}, line 6, device "SN-1": the same identifier as in line 2. '
        "Keep one entry for each device.",
        "Error: 5 errors. Nothing was imported.",
    ]
    assert acme.rows() == before
    result = import_file("d.csv", content, "--json")
    assert result.exit_code == 1
    *problems, _ = result.output.splitlines()
    assert [json.loads(problem)["line"] for problem in problems] == [3, 4, 7, 5, 6]


def test_many_errors_of_one_kind_are_counted(
    import_file: Import, acme: Organization, tmp_path: Path
) -> None:
    rows = "".join(f"SN-{n};1,5\n" for n in range(3000))
    result = import_file("d.csv", f"identifier;n:number\n{rows}SN-X;#NV\n")
    *listed, other, rest, end = result.output.splitlines()
    assert [line.split(",")[1] for line in listed] == [
        f" line {number}" for number in range(2, 22)
    ]
    assert 'line 3002, device "SN-X": column "n:number": "#NV" is an error' in other
    assert rest == (
        f"{tmp_path}/d.csv: 2,980 further errors of the same kind. Use a decimal point "
        "instead of a comma, without a thousands separator: 3.70"
    )
    assert end == "Error: 3,001 errors. Nothing was imported."


def test_metadata_too_deep_for_server_is_reported(
    import_file: Import, acme: Organization, tmp_path: Path
) -> None:
    deep = '{"line 5":' * 800 + "1" + "}" * 800
    lines = [f'{{"identifier": "SN-{number}"}}' for number in range(60_000)]
    lines[50_000] = f'{{"identifier": "SN-X", "metadata": {deep}}}'
    result = import_file(
        "devices.ndjson", "\n".join(lines), options="-c max_stack_depth=100kB"
    )
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f'{tmp_path}/devices.ndjson, line 50001, device "SN-X": the metadata has too '
        "many levels of nesting. Use fewer levels.",
        "Error: 1 error. Nothing was imported.",
    ]
    assert acme.rows() == []


def test_changed_file_is_not_imported(
    import_file: Import, acme: Organization, owner_url: str, tmp_path: Path
) -> None:
    with (
        closing(psycopg2.connect(owner_url)) as connection,
        connection.cursor() as cursor,
        ThreadPoolExecutor() as executor,
    ):
        # The import opens the file and then waits for this lock.
        cursor.execute("LOCK TABLE organizations")
        imported = executor.submit(import_file, "d.csv", "identifier\nSN-1\n")
        wait_until(lambda: is_blocked(acme), "an import that waits for a lock")
        with (tmp_path / "d.csv").open("a") as file:
            file.write("SN-2\n")
        connection.rollback()
    assert imported.result().exit_code == 1
    assert imported.result().output == (
        f"Error: {tmp_path}/d.csv changed while it was read. Nothing was imported.\n"
    )
    assert acme.rows() == []


def is_blocked(acme: Organization) -> bool:
    acme.cursor.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    return bool(acme.cursor.fetchone() == (1,))


def test_invalid_arguments_are_named(
    import_file: Import, flask: Flask, tmp_path: Path, acme: Organization
) -> None:
    result = flask("import-devices", "Acme", "missing.csv")
    assert result.exit_code == 2
    assert "'missing.csv' does not exist" in result.output
    result = import_file("d.txt", "identifier\n")
    assert result.exit_code == 2
    assert 'Unknown file name extension ".txt"' in result.output
    for encoding in ("utf-7", "rot13", "unknown", "a\0"):
        result = import_file("d.csv", "identifier\n", "--encoding", encoding)
        assert result.exit_code == 2
        assert "unknown encoding" in result.output
    result = flask("import-devices", "Globex", str(tmp_path / "d.csv"))
    assert result.exit_code == 1
    assert 'The organization "Globex" does not exist.' in result.output


@pytest.mark.parametrize(
    ("file", "redirect"),
    [("-", ""), ("-", "< <(cat)"), ("/dev/stdin", ""), ("-", "< fleet.csv")],
)
def test_pipes_are_read(
    file: str, redirect: str, owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    (tmp_path / "fleet.csv").write_text("identifier\nSN-1\n")
    done = run_flask(
        owner_url,
        "import-devices",
        "Acme",
        file,
        "--format=csv",
        stdin="identifier\nSN-1\n",
        redirect=redirect.replace("fleet.csv", str(tmp_path / "fleet.csv")),
    )
    assert done.stderr == ""
    assert list(acme.metadata()) == ["SN-1"]


def test_closed_standard_input_is_reported(owner_url: str, acme: Organization) -> None:
    done = run_flask(
        owner_url, "import-devices", "Acme", "-", "--format=csv", redirect="<&-"
    )
    assert done.returncode == 1
    assert done.stderr == "Error: -: standard input is closed\n"


def test_progress_bar_needs_terminal(
    owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    path = tmp_path / "devices.csv"
    path.write_text("identifier\n" + "".join(f"SN-{n}\n" for n in range(60_000)))
    terminal, stderr = pty.openpty()
    done = run_flask(owner_url, "import-devices", "Acme", str(path), stderr=stderr)
    os.close(stderr)
    printed = ""
    with suppress(OSError):  # the end of the output of a terminal
        while data := os.read(terminal, 65536):
            printed += data.decode()
    os.close(terminal)
    assert "60000 created" in done.stdout
    assert "Reading" in printed
    assert "100%" in printed
