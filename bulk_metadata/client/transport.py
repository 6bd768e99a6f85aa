"""One call: sent, and tried again while that may help."""

import ssl
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from bulk_metadata.client.retry import (
    Answer,
    Hopeless,
    Refused,
    Unanswered,
    body_of,
    parse_answer,
)
from bulk_metadata.client.signals import Stopped
from bulk_metadata.core.limits import ENDPOINT

# Seconds. The API answers within 15 at the worst, and proxies let calls wait.
CONNECT_TIMEOUT = 10
READ_TIMEOUT = 60

# Seconds before the next attempt: random, up to 0.5, 1, 2, 4, ... and 30.
BACKOFF = wait_random_exponential(multiplier=0.5, max=30)

# What became of devices, by identifier: their ids and statuses.
Results = dict[str, tuple[str, str]]

# No devices: answered without a look at the database, and never written.
PROBE = b'{"devices":{}}'


def endpoint(url: str) -> str:
    """Return the address of the API that ``url`` leads to: its host's, or a proxy's
    prefix, or the whole address. Raises ValueError if it is no such address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be like https://host or http://host:8000")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("must be an address alone: no user, no query")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("must have a port from 0 to 65535, or none") from None
    return parts.geturl().rstrip("/").removesuffix(ENDPOINT) + ENDPOINT


class Api:
    """The API, over connections that are kept. May be used by several threads."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        dry_run: bool,
        connections: int,
        attempts: int,
        stop: threading.Event,
        on_retry: Callable[[str], None],
    ) -> None:
        """``url`` is an endpoint's. Once ``stop`` is set nothing is sent.
        ``on_retry`` is told why, before each attempt but a call's first."""
        self._pool = urllib3.connection_from_url(
            url,
            maxsize=connections,
            block=True,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
            headers={"x-api-key": key, "Content-Type": "application/json"},
        )
        self._path = urlsplit(url).path
        self._dry_run = dry_run
        self._on_retry = on_retry
        self._stop = stop
        self._retrying = Retrying(
            retry=retry_if_exception_type(Unanswered),
            wait=_pause,
            stop=stop_after_attempt(attempts) | stop_when_event_set(stop),
            sleep=sleep_using_event(stop),
            before_sleep=self._before_retry,
            reraise=True,
        )

    def replace(self, body: bytes) -> Results:
        """Make the call, and return what became of its devices.

        Raises Refused, Unanswered, Hopeless, or Stopped if it was not sent.
        """
        answer = self._retrying(self._call, body)
        updated = "would_update" if self._dry_run else "updated"
        return {
            result.identifier: (
                result.device_id,
                updated if result.status == "updated" else result.status,
            )
            for result in answer.results
        }

    def check_dry_run(self) -> None:
        """Make sure that the service knows what a dry run is: one that does not would
        write. Raises Unanswered, Stopped, or Hopeless if it does not."""
        try:
            self._retrying(self._post, PROBE, "?dryRun=is-it-known")
        except Refused as error:
            if "dryRun" in str(error):
                return
        raise Hopeless("This service is too old for a dry run. Nothing was sent.")

    def _call(self, body: bytes) -> Answer:
        data = self._post(body, "?dryRun=true" if self._dry_run else "")
        answer = parse_answer(data)
        if answer.dry_run != self._dry_run:
            raise Hopeless("The service did not keep to what a dry run is.")
        return answer

    def _post(self, body: bytes, query: str) -> bytes:
        """Return the body of a 200."""
        if self._stop.is_set():
            raise Stopped
        try:
            response = self._pool.request(
                "POST", self._path + query, body=body, retries=False, redirect=False
            )
        except LocationParseError as error:
            raise Hopeless(f"No connection: {error}") from None
        except HTTPError as error:
            if _is_misled(error):
                raise Hopeless(f"No secure connection: {error}") from None
            raise Unanswered(_trouble(error)) from None
        return body_of(response)

    def _before_retry(self, state: RetryCallState) -> None:
        self._on_retry(str(_failure(state)))


def _failure(state: RetryCallState) -> BaseException | None:
    """Return what the last attempt raised."""
    return state.outcome.exception() if state.outcome else None


def _pause(state: RetryCallState) -> float:
    """Return the seconds until the next attempt: not all at once, so random, even when
    the server names a time."""
    return getattr(_failure(state), "retry_after", 0) + BACKOFF(state)


def _is_misled(error: HTTPError) -> bool:
    """Tell whether the server is another one than it should be, or knows no TLS. Other
    trouble with TLS is trouble with the network."""
    cause = error.args[0] if isinstance(error, SSLError) else None
    return isinstance(cause, ssl.SSLCertVerificationError) or (
        isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER"
    )


def _trouble(error: HTTPError) -> str:
    """Return why there was no answer, for people."""
    if isinstance(error, NewConnectionError):
        return f"no connection: {getattr(error.__cause__, 'strerror', error)}"
    if isinstance(error, ConnectTimeoutError):
        return f"no connection within {CONNECT_TIMEOUT} s"
    if isinstance(error, ReadTimeoutError):
        return f"no answer within {READ_TIMEOUT} s"
    if isinstance(error, ProtocolError | SSLError):
        return "the connection was lost"
    return f"an answer that cannot be read: {error.args[0]}"
