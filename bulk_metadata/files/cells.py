r"""Unintended values in the cells of a CSV or TSV file.

If only one meaning is possible, the value is corrected: ``="0071"`` becomes 0071, and
``\N`` an empty cell. Otherwise the value is rejected.
"""

import re
import unicodedata
from itertools import pairwise

from bulk_metadata.core.text import shorten
from bulk_metadata.files import advice
from bulk_metadata.files.device import DeviceError
from bulk_metadata.files.source import INVALID_BYTE, encoding_error

# PostgreSQL and MySQL write this text for NULL.
NULL_MARK = r"\N"

# Invisible, and without any function at the beginning or the end of a text.
ZERO_WIDTH = "\u200b\u2060\ufeff"

# Invisible, but with a function between letters of some scripts, and in emoji.
JOINERS = "\u200c\u200d"

# Characters other than ASCII in values that clean_cell corrects or rejects.
SPECIAL = re.compile(rf"[{INVALID_BYTE.pattern[1:-1]}{ZERO_WIDTH}]").search

# A text protected against conversion by Excel: ="0071".
PROTECTED = re.compile(r'="((?:[^"]|"")*)"', re.DOTALL)

# Error values in all languages of Excel, LibreOffice and Google Sheets, for example
# #N/A, #NAME?, #BEZUG!, #DIV/0!, #NV, Err:502. A column that is too narrow has #####.
FORMULA_ERROR = re.compile(
    r"#[¡¿]?[^\W\da-z]/[^\W\da-z]{1,4}!?"
    r"|#[¡¿]?[^\W\da-z][^\Wa-z]*(?:/0)?[!?]"
    r"|#(?:NV|ND|YOK|HIÁNYZIK|NENÍ_K_DISPOZICI|GETTING_DATA)"
    r"|#{3,}|Err ?:[5-9]\d\d"
)

# A formula that was saved instead of its value: =A1&"x", =SUM(A1:A9). The lookbehind
# prevents a search for the parenthesis from each letter of a long word.
FORMULA = re.compile(
    r"=.*?(?:\b\$?[A-Z]{1,3}\$?[1-9]|(?<![^\Wa-z])\d*[^\W\da-z][^\Wa-z]*\().*",
    re.DOTALL,
)

# Excel writes the sign. Without a sign and a decimal mark, 12E5 may be a serial number.
SCIENTIFIC = re.compile(r"[+-]?\d+(?:[eE]\+\d{1,3}|[.,]\d+[eE][+-]?\d{1,3})")

# Marks of a missing value in the exports of programs.
MISSING = {"null", "(null)", "<null>", "nil", "none", "nan", "n/a", "undefined"}

# Identifiers with another first character need no check of their form.
UNUSUAL_BEGINNING = frozenset("'=+-0123456789(<nNuU")


def may_be_special(text: str) -> bool:
    """Return whether ``text``, the cells of a row, may need clean_cell."""
    # Each search takes a tenth of the time of a regular expression.
    return (
        "#" in text
        or "=" in text
        or "\\" in text
        or "NULL" in text
        or "Err" in text
        or (not text.isascii() and SPECIAL(text) is not None)
    )


def clean_cell(cell: str) -> str:
    """Return the intended text of a cell. Raises DeviceError."""
    if cell == NULL_MARK:
        return ""
    if INVALID_BYTE.search(cell):
        raise encoding_error(cell)
    cell = cell.strip(ZERO_WIDTH)
    text = cell.strip()
    if protected := PROTECTED.fullmatch(text):
        return protected[1].replace('""', '"')
    if FORMULA_ERROR.fullmatch(text):
        reason = f'"{shorten(text)}" is an error value of a formula'
        raise DeviceError(reason, advice.FORMULA)
    if FORMULA.fullmatch(text):
        raise DeviceError(f'"{shorten(text)}" is a formula', advice.FORMULA)
    return cell


def clean_name(cell: str) -> str:
    """Return the name in a cell of the header."""
    return cell.strip().strip(ZERO_WIDTH).strip()


def clean_identifier(cell: str) -> str:
    """Return the intended identifier. Raises DeviceError."""
    identifier = cell.strip()
    if not identifier.isprintable():
        identifier = _without_invisible(identifier)
    if identifier[:1] in UNUSUAL_BEGINNING:
        _check_form(identifier)
        identifier = identifier.removeprefix("'").strip()
    return identifier


def is_read_back(identifier: str) -> bool:
    """Return whether a cell with ``identifier``, in the column "identifier", is read
    back unchanged."""
    try:
        cleaned = clean_identifier(clean_cell(identifier))
    except DeviceError:
        return False
    return cleaned == identifier and identifier.casefold() != "identifier"


def _check_form(identifier: str) -> None:
    text = identifier.removeprefix("'").strip()
    if SCIENTIFIC.fullmatch(text):
        reason, fix = "is a number in scientific notation", advice.TEXT_COLUMN
    elif text.startswith("="):
        reason, fix = "is a formula", advice.FORMULA
    elif identifier.lower() in MISSING:
        reason, fix = "marks a missing value", advice.IDENTIFIER
    elif identifier.startswith("'") and identifier.endswith("'"):
        reason, fix = "is enclosed in apostrophes", advice.APOSTROPHES
    else:
        return
    raise DeviceError(f'the identifier "{shorten(identifier)}" {reason}', fix)


def _without_invisible(identifier: str) -> str:
    """Remove invisible characters from both ends. Raises DeviceError if there are
    others."""
    identifier = identifier.strip("".join(filter(_is_blank, identifier)))
    found = [
        f"U+{ord(character):04X}"
        for before, character in pairwise(identifier)
        if _is_blank(character) and not character.isspace()
        if before.isascii() or character not in JOINERS
    ]
    if found:
        visible = "".join("?" if _is_blank(c) else c for c in identifier)
        names = ", ".join(dict.fromkeys(found))
        raise DeviceError(
            f'the identifier "{shorten(visible)}" contains invisible characters '
            f"({names}, shown as ?)",
            advice.INVISIBLE,
        )
    return identifier


def _is_blank(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) in ("Cf", "Cc")
