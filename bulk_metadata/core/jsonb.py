"""Limits of the jsonb type of PostgreSQL, which stores fewer values than JSON
allows."""

import re
from collections.abc import Mapping

from bulk_metadata.core.errors import NUL_CHARACTER, NUMBER_OUT_OF_RANGE
from bulk_metadata.core.json_text import JsonText

# Digits of the type numeric, which jsonb uses (PostgreSQL manual, table 8.2).
MAX_INTEGER_DIGITS = 131_072
MAX_FRACTION_DIGITS = 16_383

# A number with fewer consecutive digits is out of range only if its exponent is. This
# one has too many after the point with the exponent -308.
LONG_NUMBER_DIGITS = 16_076

# The patterns expect valid JSON, where a backslash occurs only in strings. Possessive
# quantifiers keep no backtracking state for strings of megabytes.
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
# Outside of strings, only an exponent has an e before a digit. The limit of 308 is that
# of a double. numeric allows more, but the 8 bytes 1e131071 expand to 131 kB in each
# response to a reader.
LARGE_EXPONENT = re.compile(
    rb"[eE][+-]?0*+(?:309|3[1-9][0-9]|[4-9][0-9]{2}|[1-9][0-9]{3})"
)
LONG_NUMBER = re.compile(
    rb"(?<![0-9.])(?=[0-9.]{%d})([0-9]++)(?:\.([0-9]++))?(?:[eE]([+-]?)0*+([0-9]*+))?"
    % LONG_NUMBER_DIGITS
)

# Translates each digit to 0, E to e, - to +, and each character that can follow a
# number to a comma. Two searches in the result detect numbers that may be out of range,
# in a tenth of the time of a parser. The comma excludes the 1e234 of many UUIDs.
SHAPES = bytes.maketrans(b"123456789E-]} \t\n\r", b"000000000e+,,,,,,")
LONG_EXPONENT = re.compile(rb"0e\+?0{3,}+,")


def first_violation(documents: Mapping[str, JsonText]) -> tuple[str, str] | None:
    """Return identifier and error of the first JSON object that jsonb cannot store, or
    None."""
    if may_violate(b",".join(documents.values())):
        for identifier, document in documents.items():
            if reason := violation(bytes(document)):
                return identifier, reason
    return None


def may_violate(text: bytes) -> bool:
    """Return whether ``text``, JSON objects, may exceed a limit of jsonb.

    This is fast. False is certain; True needs ``violation``.
    """
    if b"\\" in text and b"\\u0000" in text:  # the first test is 50 times as fast
        return True
    shapes = text.translate(SHAPES)
    return (
        LONG_EXPONENT.search(shapes) is not None or b"0" * LONG_NUMBER_DIGITS in shapes
    )


def violation(document: bytes) -> str | None:
    """Return the reason why jsonb cannot store ``document``, valid JSON, or None."""
    if not may_violate(document):
        return None
    if ESCAPED_NUL.search(document):
        return NUL_CHARACTER
    numbers = STRING.sub(b"", document)
    if LARGE_EXPONENT.search(numbers) or any(
        map(_is_out_of_range, LONG_NUMBER.finditer(numbers))
    ):
        return NUMBER_OUT_OF_RANGE
    return None


def _is_out_of_range(match: re.Match[bytes]) -> bool:
    """Return whether the long number has more digits than numeric allows."""
    integer, fraction, sign, exponent = match.groups(default=b"")
    power = int(sign + (exponent or b"0"))
    return (
        len(integer) + power > MAX_INTEGER_DIGITS
        or len(fraction) - power > MAX_FRACTION_DIGITS
    )
