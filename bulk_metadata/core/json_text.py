"""JSON: strict decoding, encoding, and values kept verbatim as text.

The other modules use msgspec only through these names.
"""

import codecs

import msgspec

# A JSON value as bytes, a view of the decoded text. Decoded numbers would lose digits.
JsonText = msgspec.Raw

# Base class of JSON objects with fixed members.
Struct = msgspec.Struct

# InvalidJsonError includes UnexpectedTypeError: valid JSON of another type.
InvalidJsonError = msgspec.DecodeError
UnexpectedTypeError = msgspec.ValidationError

Decoder = msgspec.json.Decoder
MEMBERS = Decoder(dict[str, JsonText])
ANY_VALUE = Decoder(JsonText)

# Return the JSON text of a value as bytes.
encode = msgspec.json.encode

# Bytes of text that are decoded at a time. They fit into the processor cache.
UTF8_CHUNK = 65_536


def validate_utf8(text: bytes) -> None:
    """Raise UnicodeDecodeError if ``text`` is not UTF-8.

    msgspec does not validate the encoding of values that it keeps as text. The text is
    decoded in chunks: a string of the whole text takes four times its size if the text
    contains an emoji.
    """
    start = 0
    while start < len(text):
        end = start + UTF8_CHUNK
        # Only the last chunk must end with a complete character.
        _, size = codecs.utf_8_decode(text[start:end], "strict", end >= len(text))
        start += size
