"""An answer: what it says, and what else can become of a call."""

from http import HTTPStatus
from typing import Literal

import msgspec
import urllib3
from urllib3.exceptions import InvalidHeader

from bulk_metadata.core.text import printable

# May be over in a moment: the service's own 500, and what proxies before it say.
PASSING = (429, 500, 502, 503, 504)

# A longer Retry-After is taken for this: asking once an hour is no burden.
LONGEST_RETRY_AFTER = 3600


class Refused(Exception):
    """The API does not take this body, or one of the devices in it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Unanswered(Exception):
    """No answer in all attempts; the message is why the last one failed."""

    def __init__(self, reason: str, retry_after: float = 0) -> None:
        super().__init__(reason)
        #: Seconds that the server asks to be left alone.
        self.retry_after = retry_after


class Hopeless(Exception):
    """No call can succeed: a wrong key, a wrong address. The message says which."""


class DeviceResult(msgspec.Struct, rename="camel", gc=False):
    """What the API says of one device."""

    identifier: str
    device_id: str
    status: Literal["updated", "not_found"]


class Answer(msgspec.Struct, rename="camel"):
    """The body of a 200, as far as it matters."""

    results: list[DeviceResult]
    dry_run: bool = False


class Error(msgspec.Struct):
    """The body of any other answer."""

    error: str


ANSWER = msgspec.json.Decoder(Answer)
ERROR = msgspec.json.Decoder(Error)


def body_of(response: urllib3.BaseHTTPResponse) -> bytes:
    """Return the body of a 200. Raises Refused, Unanswered or Hopeless for another."""
    if response.status == HTTPStatus.OK:
        return response.data
    said = _said(response)
    sentence = _sentence(response, said)
    if response.status in PASSING:
        raise Unanswered(sentence, _retry_after(response))
    if response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or (
        # Another's is not about a device: a proxy did not take the request itself.
        response.status == HTTPStatus.BAD_REQUEST and said is not None
    ):
        raise Refused(response.status, sentence)
    raise Hopeless(sentence)


def parse_answer(body: bytes) -> Answer:
    """Return what a 200 says. Raises Unanswered if that is not the API's."""
    try:
        return ANSWER.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unanswered(f"200, but not the API's answer: {error}") from None


def _retry_after(response: urllib3.BaseHTTPResponse) -> float:
    try:
        seconds = urllib3.Retry().get_retry_after(response)
    except (InvalidHeader, ValueError, OverflowError):  # a date in the year 99999
        seconds = None
    return min(seconds or 0, LONGEST_RETRY_AFTER)


def _said(response: urllib3.BaseHTTPResponse) -> str | None:
    """Return the sentence of an error of the API; None if the answer is another's."""
    try:
        return ERROR.decode(response.data).error
    except (msgspec.DecodeError, RecursionError):
        return None


def _sentence(response: urllib3.BaseHTTPResponse, said: str | None) -> str:
    """Return what an error answer says, for people."""
    if said is not None:
        return printable(f"{response.status}: {said}")
    # A proxy's page: its status says more.
    sentence = f"{response.status} {response.reason}"
    if location := response.headers.get("Location"):
        sentence += f" to {location}"
    return printable(sentence)
