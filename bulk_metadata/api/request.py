"""Step 2: read the dry-run parameter and parse the body, without validation."""

import codecs
import re
import select
import socket
import struct
from contextlib import suppress
from typing import IO, TypedDict
from urllib.parse import parse_qsl

from bulk_metadata.core.errors import (
    INVALID_DRY_RUN,
    INVALID_JSON,
    LARGE_BODY,
    REPEATED_DRY_RUN,
    UNKNOWN_PARAMETER,
    ApiError,
)
from bulk_metadata.core.json_text import (
    ANY_VALUE,
    MEMBERS,
    Decoder,
    InvalidJsonError,
    JsonText,
    UnexpectedTypeError,
    validate_utf8,
)


class Body(TypedDict):
    """The structure of a valid body. Other members are ignored."""

    devices: dict[str, JsonText]


class ClientDisconnectedError(Exception):
    """The client disconnected before the update. It may have sent later metadata."""


BODY = Decoder(Body)

NOT_A_LETTER = re.compile(r"[^a-z]")

# Milliseconds between the last byte of a request and the end of the stream.
# Some clients shut down their sending side after a request, and read the response. A
# client that closes the connection after a timeout does so later.
MAX_HALF_CLOSE_DELAY = 500
# Milliseconds since the last data and since the last acknowledgment of the client:
# tcpi_last_data_recv and tcpi_last_ack_recv in struct tcp_info of Linux.
AGES = struct.Struct("52x II")
POLLRDHUP = getattr(select, "POLLRDHUP", 0)  # Linux


def is_dry_run(query_string: bytes) -> bool:
    """Return whether the encoded query of the URL requests a dry run.

    Raises ApiError 400 if this is unclear. A misspelled ``dryRun`` is rejected, because
    a request that was intended as a dry run must not write. Other parameters are
    ignored.
    """
    # Flask's request.args fails for bytes that are not UTF-8.
    query = query_string.decode(errors="replace")
    parameters = parse_qsl(query, keep_blank_values=True)
    for name, _ in parameters:
        # This includes "amp;dryRun", which occurs in a URL copied from HTML.
        if name != "dryRun" and "dryrun" in NOT_A_LETTER.sub("", name.lower()):
            raise ApiError(400, UNKNOWN_PARAMETER.format(name=name))
    match [value for name, value in parameters if name == "dryRun"]:
        case [] | ["false"]:
            return False
        case ["true"]:
            return True
        case [value]:
            raise ApiError(400, INVALID_DRY_RUN.format(value=value))
    raise ApiError(400, REPEATED_DRY_RUN)


def read_body(stream: IO[bytes], content_length: int | None, limit: int) -> bytes:
    """Return the complete body.

    Raises ApiError 413 if the body exceeds ``limit`` bytes, with any transfer encoding,
    and 400 if it is incomplete or its chunks are malformed.
    """
    size = content_length or 0
    try:
        # One more byte distinguishes a body that exceeds the limit from one that fits.
        body = b"" if size > limit else stream.read(limit + 1)
    except OSError:
        raise ApiError(400, INVALID_JSON) from None
    if max(size, len(body)) > limit:
        raise ApiError(413, LARGE_BODY.format(limit=limit))
    if len(body) < size:
        raise ApiError(400, INVALID_JSON)  # the client disconnected
    return body


def parse_body(body: bytes) -> Body | dict[str, JsonText] | JsonText:
    """Return the JSON value in ``body``: a valid Body, otherwise the members of an
    object, otherwise the value as text.

    Raises ApiError 400 if the body is not JSON (RFC 8259) in UTF-8.
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        validate_utf8(body)
        for decoder in (BODY, MEMBERS):
            # msgspec reports an unexpected type before it has read the rest, which may
            # be invalid JSON or contain a second "devices".
            with suppress(UnexpectedTypeError):
                return decoder.decode(body)
        return ANY_VALUE.decode(body)
    except (UnicodeDecodeError, InvalidJsonError, RecursionError):
        raise ApiError(400, INVALID_JSON) from None


def require_connected(client: socket.socket | None) -> None:
    """Raise ClientDisconnectedError if the peer of the socket has disconnected."""
    if client is None:
        return
    poll = select.poll()
    poll.register(client, POLLRDHUP)
    for _, events in poll.poll(0):
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, AGES.size)
        data_age, ack_age = AGES.unpack(info)
        if events != POLLRDHUP or data_age - ack_age > MAX_HALF_CLOSE_DELAY:
            raise ClientDisconnectedError("the client disconnected before the update")
