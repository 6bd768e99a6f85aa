"""``flask export-devices``: a file from which push restores the metadata exactly."""

import gzip
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands.conftest import Flask, run_flask
from tests.conftest import Organization
from tests.files.test_formats import NUMBERS, TEXT, VALUES, is_accepted
from tests.random_search import examples
from tests.support.client_runner import Client
from tests.support.service import Service

LINES = (
    '{"identifier": "S\\"N\\n2", "metadata": {"a": "\\\\é\\n", "n": 1.10}}\n'
    '{"identifier": "SN-1", "metadata": {}}\n'
)
ROWS = 'identifier,metadata\n"S""N\n2","{""a"": ""\\\\é\\n"", ""n"": 1.10}"\nSN-1,{}\n'


@pytest.fixture
def devices(acme: Organization, globex: Organization) -> None:
    acme.insert("SN-1")
    acme.cursor.execute(
        "INSERT INTO devices (organization_id, identifier, device_metadata)"
        " VALUES (%s, %s, %s)",
        (acme.id, 'S"N\n2', '{"n": 1.10, "a": "\\\\é\\n"}'),
    )
    globex.insert("SN-3")


@pytest.mark.usefixtures("devices")
def test_extension_determines_output_format(flask: Flask, tmp_path: Path) -> None:
    for name, content in {
        "fleet.ndjson": LINES,
        "fleet": LINES,
        "fleet.CSV": ROWS,
        "fleet.tsv": ROWS.replace("identifier,", "identifier\t")
        .replace('2",', '2"\t')
        .replace("SN-1,", "SN-1\t"),
    }.items():
        result = flask("export-devices", "Acme", str(tmp_path / name))
        assert result.exit_code == 0
        assert result.output == ""
        assert (tmp_path / name).read_bytes().decode() == content
    assert flask("export-devices", "Acme", str(tmp_path / "a.ndjson.gz")).output == ""
    assert gzip.decompress((tmp_path / "a.ndjson.gz").read_bytes()).decode() == LINES
    assert flask("export-devices", "Acme").stdout == LINES
    assert flask("export-devices", "Acme", "-").stdout == LINES


@pytest.mark.usefixtures("devices")
def test_progress_bar_is_not_mixed_with_devices(owner_url: str, tmp_path: Path) -> None:
    """Standard output and standard error are the same terminal."""
    for file, printed in {"-": LINES, str(tmp_path / "fleet.csv"): "100%"}.items():
        terminal, output = pty.openpty()
        run_flask(
            owner_url, "export-devices", "Acme", file, stdout=output, stderr=output
        )
        os.close(output)
        text = os.read(terminal, 65536).decode().replace("\r\n", "\n")
        os.close(terminal)
        assert printed == text if file == "-" else printed in text


@pytest.mark.usefixtures("devices")
def test_identifiers_select_devices(flask: Flask, tmp_path: Path) -> None:
    listed = tmp_path / "serials.csv"
    listed.write_text("Identifier;state\nSN-1;x\nSN-3;y\n")
    result = flask("export-devices", "Acme", "--identifiers", str(listed))
    assert result.stdout == LINES.splitlines(keepends=True)[1]
    assert result.stderr == '1 of 2 identifiers do not exist in "Acme".\n'
    (tmp_path / "serials.txt").write_text("identifier\nSN-1\n")
    again = flask("export-devices", "Acme", "--identifiers", f"{tmp_path}/serials.txt")
    assert again.stdout == result.stdout
    listed.write_text("Serial;state\nSN-1;x\n")
    result = flask("export-devices", "Acme", "--identifiers", str(listed))
    assert result.exit_code == 1
    assert result.stderr.endswith("Error: 1 error. Nothing was exported.\n")


def test_export_warns_of_unreadable_identifiers(
    flask: Flask, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("3.57E+14", "=A1", "SN\u200b1", "007")
    path = tmp_path / "fleet.csv"
    result = flask("export-devices", "Acme", str(path))
    assert result.stderr == (
        f"3 identifiers in {path} cannot be read back from a table, for example "
        'numbers such as "3.57E+14". Export NDJSON instead.\n'
    )
    assert flask("export-devices", "Acme", f"{path}.ndjson").output == ""


@pytest.mark.usefixtures("devices")
def test_failed_export_keeps_existing_file(flask: Flask, tmp_path: Path) -> None:
    result = flask("export-devices", "Acme", str(tmp_path / "missing" / "a.csv"))
    assert result.exit_code == 1
    assert "a.csv: No such file or directory" in result.output
    # The name of the temporary file is longer.
    path = tmp_path / ("x" * 250)
    path.write_text("old")
    result = flask("export-devices", "Acme", str(path))
    assert result.output == f"Error: Cannot write {path}: File name too long\n"
    assert path.read_text() == "old"
    assert "does not exist" in flask("export-devices", "Nobody").output


@pytest.mark.usefixtures("devices")
def test_export_keeps_file_mode(flask: Flask, tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    path.touch(0o600)
    assert flask("export-devices", "Acme", str(path)).exit_code == 0
    assert path.read_bytes() == ROWS.encode()
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("devices")
def test_pipe_is_written_directly(flask: Flask, tmp_path: Path) -> None:
    path = tmp_path / "fleet.ndjson"
    os.mkfifo(path)
    reader = subprocess.Popen(["cat", path], stdout=subprocess.PIPE, text=True)
    assert flask("export-devices", "Acme", str(path)).exit_code == 0
    assert reader.communicate(timeout=60)[0] == LINES
    assert path.is_fifo()


# Metadata with numbers of every form.
MEMBERS = st.dictionaries(TEXT, VALUES.map(json.dumps) | NUMBERS, max_size=5)


def as_object(members: dict[str, str]) -> str:
    pairs = (f"{json.dumps(name)}:{value}" for name, value in members.items())
    return f"{{{','.join(pairs)}}}"


@pytest.mark.slow(reason="generates 300 documents")
@pytest.mark.parametrize("extension", ["ndjson", "csv"])
def test_push_restores_exported_metadata(
    extension: str,
    flask: Flask,
    service: Service,
    acme: Organization,
    tmp_path: Path,
) -> None:
    documents: list[str] = []

    @examples(300)
    @given(document=MEMBERS.map(as_object).filter(is_accepted))
    def collect(document: str) -> None:
        documents.append(document)

    collect()
    for number, document in enumerate(documents):
        acme.cursor.execute(
            "INSERT INTO devices (organization_id, identifier, device_metadata)"
            " VALUES (%s, %s, %s)",
            (acme.id, f"SN-{number}", document),
        )
    before = acme.texts()
    assert len(before) > 100
    exported, again = tmp_path / f"a.{extension}", tmp_path / f"b.{extension}"
    assert flask("export-devices", "Acme", str(exported)).output == ""
    acme.cursor.execute("UPDATE devices SET device_metadata = '{\"wiped\": true}'")
    client = Client(tmp_path, f"http://127.0.0.1:{service.port}", acme.key)
    assert client.push(file=exported.name).code == 0
    assert acme.texts() == before
    assert flask("export-devices", "Acme", str(again)).output == ""
    assert again.read_bytes() == exported.read_bytes()


def test_symbolic_link_is_kept(
    flask: Flask, acme: Organization, tmp_path: Path
) -> None:
    acme.insert("SN-1")
    (tmp_path / "target.ndjson").write_text("old")
    (tmp_path / "link.ndjson").symlink_to("target.ndjson")
    assert flask("export-devices", "Acme", str(tmp_path / "link.ndjson")).exit_code == 0
    assert (tmp_path / "link.ndjson").is_symlink()
    assert "SN-1" in (tmp_path / "target.ndjson").read_text()
