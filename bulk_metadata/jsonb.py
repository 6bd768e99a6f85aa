"""What PostgreSQL's jsonb can hold: less than JSON can say."""

import re

# The limits of numeric, which jsonb's numbers are: Table 8.2 in PostgreSQL's manual.
MAX_WHOLE_DIGITS = 131_072
MAX_FRACTION_DIGITS = 16_383
# A double's reach. numeric goes further, but 1e131071 is 8 bytes to send and 131 kB
# for everyone who reads it.
MAX_EXPONENT = 308

# Both expect valid JSON, where a backslash stands in strings only. Possessive, so that
# a string of megabytes leaves nothing behind to backtrack to.
ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*+\\u0000")
STRING_OR_NUMBER = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"|-?(\d++)(?:\.(\d++))?(?:[eE]([+-]?)0*+(\d*+))?'
)

# Every digit becomes 0, E becomes e, - becomes +: then few strings tell whether a
# number can be out of range, at the speed of a search and not of a parser.
SHAPES = bytes.maketrans(b"123456789E-", b"000000000e+")
# Shorter than any number that is out of range with an exponent of two digits.
MANY_DIGITS = b"0" * 16_000


def may_be_refused(text: bytes) -> bool:
    """Tell fast whether ``text``, any piece of valid JSON, can hold something that
    ``refusal`` names. False is certain, True is not."""
    shapes = text.translate(SHAPES)
    return (
        b"\\u0000" in text
        or b"0e000" in shapes
        or b"0e+000" in shapes
        or MANY_DIGITS in shapes
    )


def refusal(document: bytes) -> str | None:
    """Return why ``document``, valid JSON, cannot be stored; None if it can."""
    if ESCAPED_NUL.search(document):
        return "must not contain the NUL character"
    if any(map(_is_out_of_range, STRING_OR_NUMBER.finditer(document))):
        return "number out of range"
    return None


def _is_out_of_range(match: re.Match[bytes]) -> bool:
    """Tell whether the match is a number, and one too large or too precise."""
    whole, fraction, sign, exponent = match.groups(default=b"")
    # Looked at before int(), which refuses exponents of thousands of digits.
    if len(exponent) > len(str(MAX_EXPONENT)):
        return True
    power = int(sign + (exponent or b"0"))
    return (
        abs(power) > MAX_EXPONENT
        or len(whole) + power > MAX_WHOLE_DIGITS
        or len(fraction) - power > MAX_FRACTION_DIGITS
    )
