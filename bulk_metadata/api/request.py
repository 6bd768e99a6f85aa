"""Step 2: the request's body is read and parsed, and nothing in it is altered."""

import codecs
from contextlib import suppress
from typing import IO, TypedDict

import msgspec
from gunicorn.http.errors import ParseException

from bulk_metadata.core.errors import ApiError
from bulk_metadata.core.json_text import ANY_VALUE, MEMBERS, JsonText, check_utf8


class Body(TypedDict):
    """What a body should be. Other members are passed over."""

    devices: dict[str, JsonText]


BODY = msgspec.json.Decoder(Body)

# What a stream raises when the client is gone, or its chunks are malformed: PEP 3333
# has no word for that, so gunicorn has its own.
UNREADABLE = (OSError, ParseException)


def read_body(stream: IO[bytes], content_length: int | None, limit: int) -> bytes:
    """Return the whole body.

    Raises ApiError 413 if it has more than ``limit`` bytes, announced or not, and 400
    if it breaks off or its chunks are malformed.
    """
    try:
        # One byte too many tells a body that is too large from one that just fits.
        too_large = (content_length or 0) > limit
        body = b"" if too_large else stream.read(limit + 1)
    except UNREADABLE:
        raise invalid_json() from None
    if too_large or len(body) > limit:
        raise ApiError(413, f"Request body too large. Maximum {limit} bytes")
    if len(body) < (content_length or 0):
        raise invalid_json()  # the client hung up
    return body


def parse_body(body: bytes) -> Body | dict[str, JsonText] | JsonText:
    """Return the JSON value in ``body``: a Body if it is one, else an object's members,
    or another value whole, as JsonText.

    Raises ApiError 400 if the body is not JSON (RFC 8259) in UTF-8.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        check_utf8(body)
        for decoder in (BODY, MEMBERS):
            # Something of another type, found as soon as it comes: what follows must be
            # JSON all the same, and may be a second "devices".
            with suppress(msgspec.ValidationError):
                return decoder.decode(body)
        return ANY_VALUE.decode(body)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        raise invalid_json() from None


def invalid_json() -> ApiError:
    """Return the error for a body that is not valid JSON."""
    return ApiError(400, "Invalid JSON payload")
