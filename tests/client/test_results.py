"""Result file formats."""

import csv
from pathlib import Path

import pytest

from bulk_metadata.client.report import write_results

IDENTIFIERS = ["SN-1", "a,b", '"', "a\nb", "a\rb", "\r\n", " é😀\0\\", "", "\u2028"]
RESULTS = [
    (line, identifier, "", "not_found")
    for line, identifier in enumerate(IDENTIFIERS, 2)
]


def test_csv_results_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    write_results(RESULTS, path)
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["line", "identifier", "deviceId", "status"]
    assert rows == [[str(line), *rest] for line, *rest in RESULTS]
    # No carriage return follows the last column.
    assert path.read_bytes().startswith(
        b"line,identifier,deviceId,status\n2,SN-1,,not_found\n3,"
    )


@pytest.mark.parametrize("suffix", [".ndjson", ".jsonl"])
def test_ndjson_results(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"fleet{suffix}"
    write_results(RESULTS, path)
    lines = path.read_bytes().decode().split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(RESULTS)
    assert (
        lines[0] == '{"line":2,"identifier":"SN-1","deviceId":"","status":"not_found"}'
    )
    assert (
        lines[4] == '{"line":6,"identifier":"a\\rb","deviceId":"","status":"not_found"}'
    )


def test_results_are_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "fleet.csv"
    path.write_text("old")

    def broken() -> tuple[int, str, str, str]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_results((broken() for _ in range(1)), path)
    assert path.read_text() == "old"
    write_results([], path)
    assert path.read_text() == "line,identifier,deviceId,status\n"
