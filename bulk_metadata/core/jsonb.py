"""What PostgreSQL's jsonb can hold: less than JSON can say."""

import re
from collections.abc import Mapping

from bulk_metadata.core.json_text import JsonText

# The limits of numeric, which jsonb's numbers are: Table 8.2 in PostgreSQL's manual.
MAX_WHOLE_DIGITS = 131_072
MAX_FRACTION_DIGITS = 16_383
# A double's reach. numeric goes further, but 1e131071 is 8 bytes to send and 131 kB
# for everyone who reads it.
MAX_EXPONENT = 308

# No number of fewer characters is out of range while its exponent is in range.
LONG_NUMBER_LENGTH = 16_000

# All expect valid JSON, where a backslash stands in strings only. Possessive, so that a
# string of megabytes leaves nothing behind to backtrack to.
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
# Outside of strings only numbers have a digit behind an e.
EXCESSIVE_EXPONENT = re.compile(
    rb"[eE][+-]?0*+(?:309|3[1-9][0-9]|[4-9][0-9]{2}|[1-9][0-9]{3})"
)
LONG_NUMBER = re.compile(
    rb"(?<![0-9.])(?=[0-9.]{%d})([0-9]++)(?:\.([0-9]++))?(?:[eE]([+-]?)0*+([0-9]*+))?"
    % LONG_NUMBER_LENGTH
)

# Every digit becomes 0, E becomes e, - becomes +, and all that may follow a number a
# comma: then two searches tell whether one can be out of range, in a tenth of the time
# of a parser. The comma tells an exponent from the 1e234 in many a UUID.
SHAPES = bytes.maketrans(b"123456789E-]} \t\n\r", b"000000000e+,,,,,,")
LONG_EXPONENT = re.compile(rb"0e\+?0{3,}+,")


def first_refusal(documents: Mapping[str, JsonText]) -> tuple[str, str] | None:
    """Return the identifier of the first of the JSON objects in ``documents`` that
    cannot be stored, and why; None if all can."""
    if may_be_refused(b",".join(documents.values())):
        for identifier, document in documents.items():
            if reason := refusal(bytes(document)):
                return identifier, reason
    return None


def may_be_refused(text: bytes) -> bool:
    """Tell fast whether ``text``, JSON objects, can hold something that ``refusal``
    names. False is certain, True is not."""
    if b"\\" in text and b"\\u0000" in text:  # the first is 50 times as fast
        return True
    shapes = text.translate(SHAPES)
    return (
        LONG_EXPONENT.search(shapes) is not None
        or b"0" * (LONG_NUMBER_LENGTH // 2) in shapes
    )


def refusal(document: bytes) -> str | None:
    """Return why ``document``, valid JSON, cannot be stored; None if it can."""
    if not may_be_refused(document):
        return None
    if ESCAPED_NUL.search(document):
        return "must not contain the NUL character"
    numbers = STRING.sub(b"", document)
    if EXCESSIVE_EXPONENT.search(numbers) or any(
        map(_is_out_of_range, LONG_NUMBER.finditer(numbers))
    ):
        return "number out of range"
    return None


def _is_out_of_range(match: re.Match[bytes]) -> bool:
    """Tell whether the long number has more digits than numeric holds."""
    whole, fraction, sign, exponent = match.groups(default=b"")
    power = int(sign + (exponent or b"0"))
    return (
        len(whole) + power > MAX_WHOLE_DIGITS
        or len(fraction) - power > MAX_FRACTION_DIGITS
    )
