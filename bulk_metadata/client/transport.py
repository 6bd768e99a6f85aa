"""One request: sent to the service, with its response or failure interpreted."""

import re
import ssl
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    LocationParseError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from bulk_metadata.client.connection import (
    CONNECT_TIMEOUT,
    RESPONSE_TIMEOUT,
    TlsFiles,
    find_proxy,
    open_pools,
    speaks_tls,
)
from bulk_metadata.client.retry import (
    Failure,
    RequestError,
    Response,
    check_status,
    parse_response,
)
from bulk_metadata.client.signals import StoppedError
from bulk_metadata.core.json_text import encode
from bulk_metadata.core.limits import ENDPOINT
from bulk_metadata.core.text import mask, printable, shorten

# A request without devices. The service responds with 400 and never writes.
PROBE = b'{"devices":{}}'

# Errors of OpenSSL for a server that does not use TLS on this port.
NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER")

# Alerts of OpenSSL for a missing or invalid client certificate.
CERTIFICATE_ALERT = re.compile("ALERT_.*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE)")

TUNNEL_STATUS = re.compile("Tunnel connection failed: ([0-9]{3})")

# Characters of a reason. Another server determines its length.
MAX_REASON = 500


def endpoint(url: str) -> str:
    """Return the address of the API at ``url``: a host, a prefix, or the complete
    address. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL such as https://host or http://host:8000")
    if parts.query or parts.fragment or "@" in url:
        raise ValueError("must not contain a user, a password, or a query")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("must have a port from 0 to 65535, or none") from None
    return parts.geturl().rstrip("/").removesuffix(ENDPOINT) + ENDPOINT


class Transport:
    """The connections to the service. Several threads may use it."""

    def __init__(
        self,
        url: str,
        api_key: str,
        files: TlsFiles,
        *,
        dry_run: bool,
        connections: int,
        stop: threading.Event,
    ) -> None:
        """``url`` is an endpoint. Once ``stop`` is set, no request is sent. Raises
        ValueError for a proxy or a file that cannot be used."""
        self._url = url
        self._target = urlsplit(url)
        self._dry_run = dry_run
        self._stop = stop
        self._proxy = find_proxy(url)
        self._secrets = [api_key, *(self._proxy.secrets if self._proxy else [])]
        # Whether the server is known to use HTTP.
        self._is_diagnosed = False
        self._has_certificate = files.cert is not None
        self._pools = open_pools(url, self._proxy, files, connections)
        self._headers = {
            "x-api-key": api_key,
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip, deflate",
        }

    def set_request_id(self, request_id: str) -> None:
        """Send ``request_id`` with all requests from now on."""
        self._headers["X-Request-ID"] = request_id

    def replace(self, body: bytes) -> Response:
        """Send a request, and return the response. Raises RequestError, or StoppedError
        if the request was not sent."""
        return self._replace(body, dry_run=self._dry_run)

    def _replace(self, body: bytes, *, dry_run: bool) -> Response:
        response = self._post(body, "?dryRun=true" if dry_run else "")
        try:
            parsed = parse_response(response)
        except RequestError as error:
            raise self._masked(error) from None
        if parsed.dry_run != dry_run:
            raise RequestError(
                Failure.DRY_RUN, "The response does not confirm the dry run"
            )
        return parsed

    def check_dry_run(self) -> None:
        """Check that the service supports dry runs, because a service that ignores the
        parameter writes. Raises RequestError or StoppedError."""
        try:
            check_status(self._post(PROBE, "?dryRun=unknown"))
        except RequestError as error:
            if error.kind is not Failure.REJECTED:
                raise self._masked(error) from None
            if "dryRun" in str(error):
                return
        raise RequestError(
            Failure.DRY_RUN, "This service does not support dry runs. Nothing was sent"
        )

    def check_organization(self, devices: Mapping[str, str]) -> None:
        """Check that the API key belongs to the organization of ``devices``, given by
        identifier and ID, unless all were deleted. Raises RequestError or
        StoppedError."""
        self.check_dry_run()
        body = encode({"devices": {identifier: {} for identifier in devices}})
        results = self._replace(body, dry_run=True).results
        found = {result.identifier: result.device_id for result in results}
        if not found.items() & devices.items():
            raise RequestError(
                Failure.ORGANIZATION,
                "The API key belongs to another organization. Use an API key of the "
                "organization of the previous run",
            )

    def _post(self, body: bytes, query: str) -> urllib3.BaseHTTPResponse:
        if self._stop.is_set():
            raise StoppedError
        try:
            response = self._pools.request(
                "POST",
                self._url + query,
                body=body,
                headers=self._headers,
                retries=False,
                redirect=False,
            )
        except HTTPError as error:
            raise self._masked(self._failure(error)) from None
        self._is_diagnosed = True
        return response

    def _masked(self, error: RequestError) -> RequestError:
        """Return ``error`` with a reason that can be printed."""
        reason = str(error)
        # Some proxies respond with 401 instead of 407. The service sends a message.
        if self._proxy and error.kind in (401, 407) and not reason.startswith("401:"):
            reason += (
                f". The proxy {self._proxy.address} requires another user or password: "
                f"set {self._proxy.variable}"
            )
        reason = printable(shorten(mask(reason, self._secrets), MAX_REASON))
        return RequestError(error.kind, reason, error.retry_after)

    def _failure(self, error: HTTPError) -> RequestError:
        """Return the failure that urllib3 reports as ``error``."""
        host = self._target.netloc
        if self._proxy:
            host += f" (through the proxy {self._proxy.address})"
        if isinstance(error, ProxyError) and self._proxy:
            host = f"the proxy {self._proxy.address}"
            # http.client reports the status of the proxy in the message only.
            if found := TUNNEL_STATUS.search(str(error.original_error)):
                reason = f"{found[1]} from {host}"
                if found[1] == "403":
                    reason += f": it does not permit {self._target.netloc}"
                return RequestError(int(found[1]), reason)
            cause = error.original_error
            error = cause if isinstance(cause, HTTPError) else ProtocolError(cause)
        if isinstance(error, SSLError):
            return self._tls_failure(error.args[0], host)
        if isinstance(error, NewConnectionError):
            reason = getattr(error.__cause__, "strerror", None) or "no route"
            return RequestError(
                Failure.NO_CONNECTION, f"no connection to {host}: {reason}"
            )
        if isinstance(error, ConnectTimeoutError):
            reason = f"no connection to {host} within {CONNECT_TIMEOUT} s"
            return RequestError(Failure.NO_CONNECTION, reason)
        if isinstance(error, ReadTimeoutError):
            reason = f"no complete response within {RESPONSE_TIMEOUT} s"
            return RequestError(Failure.TIMEOUT, reason)
        if isinstance(error, LocationParseError):
            return RequestError(Failure.ADDRESS, f"invalid host name {host}")
        if isinstance(error, DecodeError):
            return RequestError(
                Failure.UNREADABLE, f"unreadable response: {error.args[0]}"
            )
        return self._diagnose() or RequestError(
            Failure.CONNECTION_LOST, f"the connection to {host} was lost"
        )

    def _diagnose(self) -> RequestError | None:
        """Return why the server closes the first connection without a response, if a
        second connection shows the reason."""
        if self._is_diagnosed or self._target.scheme == "https":
            return None
        self._is_diagnosed = True
        if self._proxy:
            # A proxy that rejects a request does not read its body, and the reset of
            # the connection can discard the response. A request without a body is safe.
            try:
                check_status(self._post(b"", ""))
            except RequestError as error:
                return None if error.kind is Failure.REJECTED else error
        elif speaks_tls(self._target.hostname or "", self._target.port or 80):
            reason = f"{self._target.netloc} expects TLS: use https:// in --url"
            return RequestError(Failure.TLS_MISMATCH, reason)
        return None

    def _tls_failure(self, error: object, host: str) -> RequestError:
        """Return the failure of a TLS connection."""
        reason = getattr(error, "reason", None) or ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return RequestError(
                Failure.CERTIFICATE,
                f"the certificate of {host} is not trusted: {error.verify_message}. "
                "If a company CA issued it, pass the CA with --cacert FILE, or "
                "set SSL_CERT_FILE",
            )
        if any(word in reason for word in NO_TLS):
            return RequestError(
                Failure.TLS_MISMATCH, f"{host} does not use TLS: use http:// in --url"
            )
        if CERTIFICATE_ALERT.search(reason):
            problem = "rejects the" if self._has_certificate else "requires a"
            return RequestError(
                Failure.CLIENT_CERTIFICATE,
                f"{host} {problem} client certificate ({reason}): pass "
                "the certificate and its key with --cert FILE",
            )
        return RequestError(
            Failure.CONNECTION_LOST, f"the connection to {host} was lost"
        )
