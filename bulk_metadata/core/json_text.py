"""JSON as it stands: checked, and taken apart, without altering a byte of it."""

import codecs

import msgspec

# A JSON value as it stands in a text: a piece of it, not a copy. Floats would not keep
# every digit of every number.
JsonText = msgspec.Raw

MEMBERS = msgspec.json.Decoder(dict[str, JsonText])
ANY_VALUE = msgspec.json.Decoder(JsonText)

# Bytes whose UTF-8 is checked at a time: they stay in the processor's cache.
UTF8_PIECE = 65_536


def check_utf8(text: bytes) -> None:
    """Raise UnicodeDecodeError if ``text`` is not UTF-8, which msgspec does not look at
    in what it leaves as text.

    Piece by piece: one emoji would make a string of all of it four times as large.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), UTF8_PIECE):
        decoder.decode(text[start : start + UTF8_PIECE])
    decoder.decode(b"", final=True)
