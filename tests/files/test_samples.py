"""Device files from real users: each is read as intended, or rejected with a fix, by
``push`` and by ``flask import-devices``."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from bulk_metadata.config import Config
from tests.commands.conftest import runner
from tests.conftest import Organization
from tests.support.client_runner import Client
from tests.support.service import Service

SAMPLES = Path(__file__).parent / "samples"

VOLTAGES = {"TRK-0001": '{"voltage": 3.70}', "TRK-0002": '{"voltage": 4.10}'}
STATES = {"TRK-0001": '{"State": "new"}', "TRK-0002": '{"State": "used"}'}

READ = {
    "columns.csv": {
        "TRK-0001": (
            '{"site": {"city": "Gera"}, "bands": [3, 20.0], "assetNo": "0071", '
            '"roaming": false, "voltage": 3.70}'
        ),
        "TRK-0002": '{"assetNo": "0072", "roaming": true}',
    },
    "metadata.csv": {**VOLTAGES, "TRK-0002": '{"note": "a; b", "voltage": 4.10}'},
    "sep-line.csv": VOLTAGES,
    "body.json": VOLTAGES,
    "lines.ndjson.gz": VOLTAGES,
    "capitals.csv": STATES,
    "quoted-commas.csv": {
        **STATES,
        "TRK-0001": '{"State": "new", "Place (site, hall, row)": "Gera, 2, 14"}',
    },
    "surplus-cells.csv": STATES,
    "joined.csv": STATES,
    "unicode-text.csv": {**STATES, "TRK-0001": '{"Place": "Plön", "State": "new"}'},
    "indented.ndjson": dict.fromkeys(VOLTAGES, '{"bands": [3, 20], "state": "new"}'),
    "array.json": dict.fromkeys(VOLTAGES, '{"state": "new"}'),
    "escapes.csv": {"0071": '{"State": "new"}', "0072": '{"State": "used"}'},
    "invisible.csv": STATES,
    "copy-null.tsv": {**STATES, "TRK-0002": '{"Place": "Suhl"}'},
}

# File -> fragments of the error message, and of the fix.
NOT_UTF_8 = [
    'line 3, device "TRK-0002": column "Place": "Pl?n" is not UTF-8',
    "CSV UTF-8",
    "--encoding windows-1252",
]
REJECTED = {
    "windows-1252.csv": NOT_UTF_8,
    "workbook.csv": ["workbook.csv: the file is an Excel workbook. ", "CSV UTF-8"],
    "scientific.csv": ['line 3: the identifier "3.57E+14" is a number', "as text"],
    "lookup-errors.csv": [
        'line 2, device "TRK-0001": column "Place": "#N/A" is an error value',
        'line 3: column "identifier": "#NAME?" is an error value',
        "Correct the formula",
    ],
    "decimal-comma.csv": [
        'line 2, device "TRK-0001": column "voltage:number": expected a number, got '
        '"3,70"',
        'line 3, device "TRK-0002"',
        "decimal point",
    ],
}

WITHOUT_METADATA = {
    "identifiers-only.csv": [
        'line 1: the table has no column except "identifier"',
        "--allow-empty",
    ],
    "serials.tsv": ['line 2, device "TRK-0001": the device has no metadata'],
    "macintosh.csv": ['line 3, device "TRK-0002": the device has no metadata'],
}

ALL_REJECTED = REJECTED | WITHOUT_METADATA


@pytest.fixture
def client(service: Service, acme: Organization, tmp_path: Path) -> Client:
    """The client, and an organization with devices."""
    acme.insert("TRK-0001", "TRK-0002", "0071", "0072", metadata={"old": True})
    return Client(tmp_path, f"http://127.0.0.1:{service.port}", acme.key)


def push(client: Client, name: str, *options: str) -> tuple[int, str]:
    shutil.copy(SAMPLES / name, client.directory)
    done = client.push(*options, file=name)
    return done.code, done.err


def import_file(
    config: Config, owner_url: str, name: str, *options: str
) -> tuple[int, str]:
    path = str(SAMPLES / name)
    result = runner(config, owner_url)("import-devices", "Acme", path, *options)
    return result.exit_code, result.output


def assert_contains(output: str, fragments: Sequence[str]) -> None:
    for fragment in fragments:
        assert fragment in output


@pytest.mark.parametrize("name", READ)
def test_push_stores_intended_metadata(
    name: str, client: Client, acme: Organization
) -> None:
    assert push(client, name)[0] == 0
    changed = {key: text for key, text in acme.texts().items() if "old" not in text}
    assert changed == READ[name]


@pytest.mark.parametrize("name", READ)
def test_import_creates_intended_devices(
    name: str, config: Config, owner_url: str, acme: Organization
) -> None:
    assert import_file(config, owner_url, name) == (
        0,
        'Imported into "Acme": 2 created, 0 skipped because they already exist.\n',
    )
    assert acme.texts() == READ[name]


@pytest.mark.parametrize("check", ["--check", "--no-check"])
@pytest.mark.parametrize("name", ALL_REJECTED)
def test_push_explains_rejection(
    name: str, check: str, client: Client, acme: Organization
) -> None:
    before = acme.rows()
    code, output = push(client, name, check)
    assert code == 1
    assert_contains(output, ALL_REJECTED[name])
    if check == "--check":
        assert output.splitlines()[-1].endswith("Nothing was sent.")
        assert acme.rows() == before
        assert [path.name for path in client.directory.iterdir()] == [name]


@pytest.mark.parametrize("name", REJECTED)
def test_import_explains_rejection(
    name: str, config: Config, owner_url: str, acme: Organization
) -> None:
    code, output = import_file(config, owner_url, name)
    assert code == 1
    assert_contains(output, REJECTED[name])
    assert output.endswith("Nothing was imported.\n")
    assert acme.rows() == []


@pytest.mark.parametrize("name", WITHOUT_METADATA)
def test_devices_without_metadata_need_confirmation_in_push(
    name: str, client: Client, config: Config, owner_url: str, acme: Organization
) -> None:
    assert push(client, name, "--allow-empty")[0] == 0
    assert acme.texts()["TRK-0001"] == acme.texts()["TRK-0002"] == "{}"
    acme.cursor.execute("DELETE FROM devices")
    assert import_file(config, owner_url, name)[0] == 0
    assert acme.texts() == {"TRK-0001": "{}", "TRK-0002": "{}"}


def test_encoding_option_reads_windows_1252(
    client: Client, config: Config, owner_url: str, acme: Organization
) -> None:
    option = ("--encoding", "windows-1252")
    assert push(client, "windows-1252.csv", *option)[0] == 0
    expected = '{"Place": "Plön", "State": "used"}'
    assert acme.texts()["TRK-0002"] == expected
    acme.cursor.execute("DELETE FROM devices")
    assert import_file(config, owner_url, "windows-1252.csv", *option)[0] == 0
    assert acme.texts()["TRK-0002"] == expected
