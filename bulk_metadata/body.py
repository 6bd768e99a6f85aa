"""Step 2: the request's body is read and parsed, and nothing in it is altered."""

import codecs
from typing import IO

import msgspec
from gunicorn.http.errors import ParseException

from bulk_metadata.api_error import ApiError

# Values stay raw text: floats would not keep every digit of every number.
MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
ANY_VALUE = msgspec.json.Decoder(msgspec.Raw)

# What a stream raises when the client is gone, or its chunks are malformed.
UNREADABLE = (OSError, ParseException)

# Bytes of a refused body in memory at a time.
DISCARDED_AT_ONCE = 64 * 1024


def read_body(stream: IO[bytes], content_length: int | None, limit: int) -> bytes:
    """Return the whole body.

    Raises ApiError 413 if it has more than ``limit`` bytes, announced or not, and 400
    if it breaks off or its chunks are malformed.
    """
    try:
        # One byte too many tells a body that is too large from one that just fits.
        if (content_length or 0) <= limit:
            body = stream.read(limit + 1)
            if len(body) <= limit:
                return body
    except UNREADABLE:
        raise invalid_json() from None
    raise ApiError(413, f"Request body too large. Maximum {limit} bytes")


def discard_body(stream: IO[bytes], limit: int) -> None:
    """Read on to the end of the body, but not beyond ``limit`` bytes.

    Most clients read no answer before they have sent their body: if the connection is
    closed on them, they report a broken pipe, and never see why.
    """
    try:
        while limit > 0 and (piece := stream.read(min(limit, DISCARDED_AT_ONCE))):
            limit -= len(piece)
    except UNREADABLE:
        pass  # there is no more of it, or nothing that could be told from it


def parse_body(body: bytes) -> dict[str, msgspec.Raw] | msgspec.Raw:
    """Return the members of the JSON object in ``body``, each value as its raw text;
    of any other JSON value, the raw text as a whole.

    Raises ApiError 400 if the body is not JSON (RFC 8259) in UTF-8.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        body.decode()  # msgspec does not check the UTF-8 of raw text
        try:
            return MEMBERS.decode(body)
        except msgspec.ValidationError:
            # Not an object, found at its first byte: is the rest of it JSON?
            return ANY_VALUE.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        raise invalid_json() from None


def invalid_json() -> ApiError:
    """Return the error for a body that is not valid JSON."""
    return ApiError(400, "Invalid JSON payload")
