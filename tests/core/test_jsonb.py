"""Limits of jsonb, compared with PostgreSQL."""

import json
import tracemalloc

from hypothesis import example, given
from hypothesis import strategies as st
from psycopg2.errors import NumericValueOutOfRange
from psycopg2.extensions import connection as Connection

from bulk_metadata.core.jsonb import may_violate, violation
from tests.random_search import examples

EXPONENTS = st.one_of(st.just(0), st.integers(-310, 310), st.sampled_from([308, -308]))
# Near the limits of numeric: 131,072 digits before the point, 16,383 after it.
WHOLE = st.one_of(st.integers(1, 9), st.integers(130_700, 131_400))
FRACTION = st.one_of(st.integers(0, 9), st.integers(16_000, 16_800))


@examples(200)
@given(whole=WHOLE, fraction=FRACTION, exponent=EXPONENTS, sign=st.sampled_from("+- "))
@example(whole=131_072, fraction=0, exponent=0, sign=" ")
@example(whole=131_073, fraction=0, exponent=0, sign=" ")
@example(whole=130_764, fraction=0, exponent=308, sign="+")
@example(whole=130_765, fraction=0, exponent=308, sign=" ")
@example(whole=1, fraction=16_383, exponent=0, sign=" ")
@example(whole=1, fraction=16_384, exponent=0, sign=" ")
@example(whole=1, fraction=16_075, exponent=-308, sign=" ")
@example(whole=1, fraction=16_076, exponent=-308, sign=" ")
def test_number_limits_match_postgresql(
    whole: int, fraction: int, exponent: int, sign: str, connection: Connection
) -> None:
    number = "7" * whole
    if fraction:
        number += "." + "3" * fraction
    if exponent:
        number += f"e{sign.strip() if exponent > 0 else ''}{exponent}"
    document = f'{{"a": {number}}}'.encode()
    fits = abs(exponent) <= 308
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT %s::jsonb", (document.decode(),))
        except NumericValueOutOfRange:
            fits = False
    assert violation(document) == (None if fits else "number out of range")
    if not fits:
        assert may_violate(document)


TEXTS = st.lists(
    st.sampled_from(
        ["\\", '"', "\0", "u0000", "1e999", "-1E-400", "0", ",", " ", "[", "}", "é"]
    ),
    max_size=12,
).map("".join)


@examples(500)
@given(name=TEXTS, text=TEXTS, ascii_only=st.booleans())
def test_strings_are_not_mistaken_for_numbers(
    name: str, text: str, ascii_only: bool, connection: Connection
) -> None:
    document = json.dumps({name: [text]}, ensure_ascii=ascii_only).encode()
    has_nul = "\0" in name + text
    expected = "must not contain the NUL character" if has_nul else None
    assert violation(document) == expected
    if has_nul:
        assert may_violate(document)
    else:
        with connection.cursor() as cursor:
            cursor.execute("SELECT %s::jsonb", (document.decode(),))
            assert cursor.fetchall() == [({name: [text]},)]


def test_common_metadata_passes_fast_check() -> None:
    """UUIDs and versions contain digits and the letter e."""
    text = (
        "0e123456-7e89-4e00-9e99-1e2345678901",
        "e" * 9 + "123",
        "v1e100.2",
        "\\u1e999",
    )
    assert not may_violate(json.dumps({"a": text, "b": 1e30, "c": 0}).encode())


def test_long_string_needs_no_backtracking_memory() -> None:
    """A pattern that backtracks into a long string would need gigabytes."""
    text = b'\\"\\\\' * 2_000_000 + b"1e999" + b"x" * 2_000_000
    document = b'{"a": "' + text + b'"}'
    tracemalloc.start()
    assert violation(document) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One copy of it at a time.
    assert peak < 2 * len(document)
