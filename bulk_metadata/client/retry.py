"""The retry policy, and the interpretation of responses.

RULES makes every retry decision of the client. docs/fleet.md contains the same table.
"""

import html
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import mktime_tz, parsedate_tz
from enum import StrEnum
from http import HTTPStatus
from http.client import responses as REASONS
from typing import Any, Literal, NamedTuple

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)
from urllib3 import BaseHTTPResponse

from bulk_metadata.core.json_text import (
    Decoder,
    InvalidJsonError,
    Struct,
    UnexpectedTypeError,
)


class Action(StrEnum):
    """The decision after a failed request."""

    RETRY = "retry"
    SPLIT = "split in half"
    END = "end"


class Failure(StrEnum):
    """A failure for which the status does not determine the action."""

    NO_CONNECTION = "no connection"
    CONNECTION_LOST = "connection lost"
    TIMEOUT = "timeout"
    UNREADABLE = "unreadable response"
    REJECTED = "400 from the service"
    OTHER_SERVER = "200 from another server"
    ADDRESS = "invalid host name"
    TLS_MISMATCH = "http and https confused"
    CERTIFICATE = "untrusted certificate"
    CLIENT_CERTIFICATE = "client certificate required"
    DRY_RUN = "dry run not supported"
    ORGANIZATION = "API key of another organization"


class Rule(NamedTuple):
    """The action for some statuses and failures, and the exit code if they persist."""

    kinds: tuple[int | Failure, ...]
    action: Action
    exit_code: int


RULES = (
    # 520 to 530 are statuses of CDNs for a server that is overloaded or unavailable.
    Rule(
        (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529, 530),
        Action.RETRY,
        1,
    ),
    Rule(
        (
            Failure.NO_CONNECTION,
            Failure.CONNECTION_LOST,
            Failure.TIMEOUT,
            Failure.UNREADABLE,
        ),
        Action.RETRY,
        1,
    ),
    Rule((413, Failure.REJECTED), Action.SPLIT, 1),
    Rule(
        (
            Failure.OTHER_SERVER,
            Failure.ADDRESS,
            Failure.TLS_MISMATCH,
            Failure.CERTIFICATE,
            Failure.CLIENT_CERTIFICATE,
            Failure.DRY_RUN,
            Failure.ORGANIZATION,
        ),
        Action.END,
        1,
    ),
)
OTHER_STATUS = Rule((), Action.END, 1)
POLICY = {kind: rule for rule in RULES for kind in rule.kinds}

# Seconds before the next attempt: random, up to 0.5, 1, 2, 4, ... and 30.
BACKOFF = wait_random_exponential(multiplier=0.5, max=30)

# Seconds. A longer Retry-After is reduced to this: a request per hour is no load.
MAX_RETRY_AFTER = 3600

TITLE = re.compile(rb"<title[^<>]*>([^<]*)</title", re.IGNORECASE)


class RequestError(Exception):
    """A request that failed; the message is the reason."""

    def __init__(
        self, kind: int | Failure, reason: str, retry_after: float = 0
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.rule = POLICY.get(kind, OTHER_STATUS)
        #: Seconds that the server asks to wait.
        self.retry_after = retry_after

    @property
    def action(self) -> Action:
        """The decision of the retry policy."""
        return self.rule.action


class DeviceResult(Struct, rename="camel", gc=False):
    """The result for one device."""

    identifier: str
    device_id: str
    status: Literal["updated", "not_found"]


class Response(Struct, rename="camel"):
    """The body of a 200."""

    results: list[DeviceResult]
    dry_run: bool = False


class ErrorBody(Struct):
    """The body of an error response of the service."""

    error: str


# A UUID, or the empty string for a device that was not found.
DEVICE_ID_LENGTHS = {0, 36}

RESPONSE = Decoder(Response)
ERROR_BODY = Decoder(ErrorBody)
DECODE_ERRORS = (InvalidJsonError, UnicodeDecodeError, RecursionError)


def make_retrying(
    attempts: int, stop: threading.Event, on_retry: Callable[[float, str], None]
) -> Retrying:
    """Return a function that repeats a request as RULES determines.

    ``on_retry`` gets the delay in seconds and the reason. ``stop`` ends a delay.
    """

    def before_sleep(state: RetryCallState) -> None:
        on_retry(state.upcoming_sleep, str(_error(state)))

    return Retrying(
        retry=retry_if_exception(
            lambda error: getattr(error, "action", None) is Action.RETRY
        ),
        # The random part separates clients that the server asks to wait equally long.
        wait=lambda state: _error(state).retry_after + BACKOFF(state),
        stop=stop_after_attempt(attempts) | stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        before_sleep=before_sleep,
        reraise=True,
    )


def _error(state: RetryCallState) -> Any:
    """Return the RequestError of the last attempt."""
    return state.outcome and state.outcome.exception()


def parse_response(response: BaseHTTPResponse) -> Response:
    """Return the body of a 200. Raises RequestError."""
    check_status(response)
    body = response.data
    try:
        parsed = RESPONSE.decode(body)
        # Other text, such as an API key, must not reach the result file.
        if {len(result.device_id) for result in parsed.results} <= DEVICE_ID_LENGTHS:
            return parsed
    except UnexpectedTypeError:
        pass
    except DECODE_ERRORS as error:
        if body.lstrip().startswith(b"{"):
            reason = f"200, but the response is truncated or invalid JSON: {error}"
            raise RequestError(Failure.UNREADABLE, reason) from None
    kind = "a web page" if b"<" in body else "not a response of this API"
    raise RequestError(
        Failure.OTHER_SERVER,
        f"{_describe(response)}: the response is {kind}. Check --url, and whether a "
        "login page, a proxy or another service responds at this address",
    )


def check_status(response: BaseHTTPResponse) -> None:
    """Raise RequestError if the status is not 200."""
    if response.status == HTTPStatus.OK:
        return
    message = _error_message(response)
    kind: int | Failure = response.status
    # A 400 of another server does not concern a device.
    if response.status == HTTPStatus.BAD_REQUEST and message is not None:
        kind = Failure.REJECTED
    reason = _describe(response) if message is None else f"{response.status}: {message}"
    if response.status == HTTPStatus.NOT_FOUND:
        reason += ". Check --url"
    if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and message is None:
        reason += (
            ". A proxy in front of the service limits the size of a request, for "
            "example with client_max_body_size in nginx"
        )
    raise RequestError(kind, reason, _retry_after(response))


def _error_message(response: BaseHTTPResponse) -> str | None:
    """Return the message of an error of the service, or None for another server."""
    try:
        return ERROR_BODY.decode(response.data).error
    except DECODE_ERRORS:
        return None


def _describe(response: BaseHTTPResponse) -> str:
    """Return the status, the reason phrase, and the redirect target or page title."""
    text = f"{response.status} {response.reason or REASONS.get(response.status, '')}"
    text = text.strip()
    if location := response.headers.get("Location"):
        return f"{text}: redirect to {location}. Set --url to the final address"
    if found := TITLE.search(response.data):
        title = " ".join(html.unescape(found[1].decode(errors="replace")).split())
        return text if title == text else f'{text}, page title "{title}"'
    if response.headers.get("Content-Type", "").startswith("text/plain"):
        first_line = response.data.decode(errors="replace").strip().partition("\n")[0]
        return f'{text}, "{first_line}"'
    return text


def _retry_after(response: BaseHTTPResponse) -> float:
    """Return the value of Retry-After in seconds. A date is compared with the Date of
    the response, because clocks differ."""
    value = response.headers.get("Retry-After", "").strip()
    seconds = 0.0
    if re.fullmatch("[0-9]{1,9}", value):
        seconds = float(value)
    elif date := _timestamp(value):
        now = _timestamp(response.headers.get("Date", "")) or time.time()
        seconds = date - now
    return min(max(seconds, 0), MAX_RETRY_AFTER)


def _timestamp(date: str) -> float | None:
    with suppress(ValueError, OverflowError):
        if parts := parsedate_tz(date):
            return mktime_tz(parts)
    return None
