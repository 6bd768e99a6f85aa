"""Files that LibreOffice Calc saved, with the script libreoffice/save."""

from pathlib import Path

import pytest

from tests.files.reading import read_path

DIRECTORY = Path(__file__).parent / "libreoffice"

DOCUMENTS = [
    (
        "0071",
        '{"State":"new","Place":"Plön, Markt 2","voltage":3.7,"roaming":true,'
        '"note":"say \\"hi\\"\\nsecond line"}',
    ),
    ("TRK-2", '{"State":"used","voltage":4.1,"roaming":false}'),
]


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *[(f"{name}.csv", "utf-8") for name in ("comma", "semicolon", "tab", "pipe")],
        *[(f"{name}.csv", "utf-8") for name in ("quoted", "raw-numbers", "formulas")],
        ("single-quotes.csv", "utf-8"),
        ("utf-16.csv", "utf-8"),
        ("windows-1252.csv", "windows-1252"),
    ],
)
def test_every_export_setting_is_read(name: str, encoding: str) -> None:
    devices, found = read_path(DIRECTORY / name, encoding=encoding)
    assert found == []
    assert [(d.identifier, d.document.decode()) for d in devices] == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "file_type"),
    [
        ("fleet.ods", "an OpenDocument spreadsheet"),
        ("fleet.fods", "a spreadsheet in a text format (.fods, .slk or .dif)"),
        ("fleet.slk", "a spreadsheet in a text format (.fods, .slk or .dif)"),
        ("fleet.dif", "a spreadsheet in a text format (.fods, .slk or .dif)"),
        ("fleet.xlsx", "an Excel workbook"),
        ("fleet.xls", "an Excel workbook"),
        ("fleet.html", "a web page (HTML)"),
    ],
)
def test_other_file_types_are_named(name: str, file_type: str) -> None:
    assert read_path(DIRECTORY / name)[1] == [(0, "", f"the file is {file_type}")]
    assert read_path(DIRECTORY / name, "csv")[1] == [
        (0, "", f"the file is {file_type}")
    ]


def test_encoding_is_never_guessed() -> None:
    [(line, identifier, reason)] = read_path(DIRECTORY / "windows-1252.csv")[1]
    assert (line, identifier) == (2, "0071")
    assert reason.startswith('column "Place": "Pl?n, Markt 2" is not UTF-8')
