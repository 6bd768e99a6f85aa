"""Values in CSV and TSV cells that cannot be intended: corrected or rejected."""

import pytest

from bulk_metadata.files.cells import is_read_back
from tests.files.reading import problems, texts


@pytest.mark.parametrize(
    ("cell", "identifier"),
    [
        ('"=""0071"""', "0071"),
        ('="0071"', "0071"),
        ('"=""a""""b"""', 'a"b'),
        ("'0071", "0071"),
        ("\u200b SN-1 \u2060", "SN-1"),
        ("\ufeff\u200e\u202aSN-1\u202c", "SN-1"),
        ("\u200eSN-1\x1a", "SN-1"),
        ("SN\xa01", "SN\xa01"),
        # Joiners between letters, and in an emoji.
        ("क्\u200dष", "क्\u200dष"),
        ("👩\u200d🔧", "👩\u200d🔧"),
        # Serial numbers that only resemble the values below.
        ("12E5", "12E5"),
        ("7E-12", "7E-12"),
        ("1.5E", "1.5E"),
        ("#1234", "#1234"),
        ("N/A-1", "N/A-1"),
        ("nanometer-1", "nanometer-1"),
        ("Err:SN-1", "Err:SN-1"),
        ("a'b", "a'b"),
    ],
)
def test_identifier_is_read_as_intended(cell: str, identifier: str) -> None:
    assert list(texts(f"identifier;a\n{cell};x\n", "csv")) == [identifier]


SCIENTIFIC = 'the identifier "%s" is a number in scientific notation'
MISSING = 'the identifier "%s" marks a missing value'
IN_COLUMN = 'column "identifier": "%s" is %s'


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        *[
            (cell, SCIENTIFIC % cell)
            for cell in ("3.57E+14", "1,00042E+11", "1E+05", "3.57e14", "4.9E-12")
        ],
        ("'3.57E+14", SCIENTIFIC % "'3.57E+14"),
        *[(cell, MISSING % cell) for cell in ("NULL", "null", "NaN", "None", "(null)")],
        ("'0071'", "the identifier \"'0071'\" is enclosed in apostrophes"),
        ("=B2", IN_COLUMN % ("=B2", "a formula")),
        ("=Z(1)S", IN_COLUMN % ("=Z(1)S", "a formula")),
        ("=x", 'the identifier "=x" is a formula'),
        ("'=x", 'the identifier "\'=x" is a formula'),
        ("#NAME?", IN_COLUMN % ("#NAME?", "an error value of a formula")),
        ("\\N", "the identifier is empty"),
        ("\u200e\x1a", "the identifier is empty"),
        (
            "SN\u200b-1\u00ad2",
            'the identifier "SN?-1?2" contains invisible characters '
            "(U+200B, U+00AD, shown as ?)",
        ),
        (
            "SN\u200d-1",
            'the identifier "SN?-1" contains invisible characters (U+200D, shown as ?)',
        ),
        (
            "S\x07N",
            'the identifier "S?N" contains invisible characters (U+0007, shown as ?)',
        ),
    ],
)
def test_unintended_identifier_is_rejected(cell: str, reason: str) -> None:
    assert [found for _, _, found in problems(f"identifier;a\n{cell};x\n", "csv")] == [
        reason
    ]


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [("SN-1", True), ("'0071", False), ("=B2", False), ("Identifier", False)],
)
def test_identifier_that_changes_is_not_read_back(
    identifier: str, expected: bool
) -> None:
    assert is_read_back(identifier) == expected


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("\\N", None),
        ("\u200b", None),
        ('="007"', '"007"'),
        ("\ufeffnew\u200b", '"new"'),
        # Text that a person can have written.
        ("'n Abend", '"\'n Abend"'),
        ("3.57E+14", '"3.57E+14"'),
        ("#1", '"#1"'),
        ("# of items", '"# of items"'),
        ("=> see manual", '"=> see manual"'),
        ("Null", '"Null"'),
        ("Error: x", '"Error: x"'),
        ("C:\\temp", '"C:\\\\temp"'),
        ("👩\u200d🔧", '"👩\u200d🔧"'),
        ("\u200eשל\u200f", '"\u200eשל\u200f"'),
    ],
)
def test_text_is_read_as_intended(cell: str, value: str | None) -> None:
    [document] = texts(f"identifier;a;b\nSN-1;{cell};x\n", "csv").values()
    member = f'"a":{value},' if value else ""
    assert document == f'{{{member}"b":"x"}}'


@pytest.mark.parametrize(
    "cell",
    [
        *[
            "#N/A",
            "#NAME?",
            "#REF!",
            "#VALUE!",
            "#DIV/0!",
            "#NUM!",
            "#NULL!",
            "#SPILL!",
        ],
        *["#CALC!", "#GETTING_DATA", "#ERROR!", "#NV", "#BEZUG!", "#ÜBERLAUF!", "#N/D"],
        *["#¡VALOR!", "#¿NOMBRE?", "#¡DIV/0!", "#NOM?", "#Я/Д", "#ДЕЛ/0!", "#YOK"],
        *["#SAKNAS!", "#I/T", "#HIÁNYZIK", "#DĚLENÍ_NULOU!", "#########", "Err:502"],
    ],
)
def test_error_value_of_formula_is_rejected(cell: str) -> None:
    reason = f'"{cell}" is an error value of a formula'
    for column in ("a", "a:number", "a:json"):
        assert problems(f"identifier;{column}\nSN-1; {cell} \n", "csv") == [
            (2, "SN-1", f'column "{column}": {reason}')
        ]


@pytest.mark.parametrize("cell", ['=B2&"-x"', "=SUM(A1:A9)", "=$AB$12", "=ZÄHLE(x)"])
def test_formula_instead_of_value_is_rejected(cell: str) -> None:
    quoted = cell.replace('"', '""')
    assert problems(f'identifier;a\nSN-1;"{quoted}"\n', "csv") == [
        (2, "SN-1", f'column "a": "{cell}" is a formula')
    ]


def test_long_text_after_equals_sign_is_kept() -> None:
    cell = "=" + "A" * 50_000
    found = texts(f"identifier;a\nSN-1;{cell}\n", "csv")
    assert found == {"SN-1": f'{{"a":"{cell}"}}'}


def test_null_text_is_rejected() -> None:
    assert problems("identifier;a\nSN-1;NULL\n", "csv") == [
        (2, "SN-1", 'column "a": "NULL" marks a missing value')
    ]


def test_backslash_is_unclear_in_file_with_null_mark() -> None:
    rows = "SN-1;a\\\\b;x\nSN-2;\\N;x\nSN-3;y\\t;x\n"
    found = problems(f"identifier;a;b\n{rows}", "csv")
    unclear = "is ambiguous: line 3 contains \\N, and line 2 another backslash"
    assert found == [
        (3, "SN-2", f'column "a": "\\N" {unclear}'),
        (4, "SN-3", f'column "a": "y\\t" {unclear}'),
    ]
