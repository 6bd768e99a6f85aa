"""Connections to the service: proxies, TLS and timeouts."""

import os
import re
import socket
import ssl
import threading
from base64 import b64encode
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import LocationParseError

# Seconds.
CONNECT_TIMEOUT = 10
# Seconds for a complete response. The API responds within 15 s in the worst case, and
# proxies add queueing time.
RESPONSE_TIMEOUT = 60


class TlsFiles(NamedTuple):
    """Files in PEM format: the CA, the client certificate, and its key."""

    cacert: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class Proxy(NamedTuple):
    """An HTTP proxy."""

    url: str
    # The environment variable that configures it.
    variable: str
    # "user:password", or "".
    credentials: str = ""

    @property
    def address(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc

    @property
    def headers(self) -> dict[str, str]:
        """The headers for the proxy only."""
        if not self.credentials:
            return {}
        basic = b64encode(self.credentials.encode()).decode()
        return {"Proxy-Authorization": f"Basic {basic}"}

    @property
    def secrets(self) -> list[str]:
        """The forms of the password that must not be printed."""
        password = self.credentials.partition(":")[2]
        return [password, *self.headers.values()]


def find_proxy(url: str) -> Proxy | None:
    """Return the proxy for ``url`` in the environment. Raises ValueError."""
    proxies = getproxies_environment()
    parts = urlsplit(url)
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    address = proxies.get(scheme, "")
    if not address or _is_excluded(parts.netloc, parts.hostname or "", proxies):
        return None
    variable = f"{scheme}_proxy"
    try:
        proxy = urllib3.util.parse_url(
            address if "://" in address else f"http://{address}"
        )
    except LocationParseError:
        proxy = urllib3.util.Url()
    if proxy.scheme not in ("http", "https") or not proxy.host:
        # The value may contain a password.
        raise ValueError(
            f"{variable} must be a URL such as http://HOST:PORT. If the proxy requires "
            "a password, write USER:PASSWORD@ before the host, percent-encoded"
        )
    port = proxy.port or (443 if proxy.scheme == "https" else 80)
    return Proxy(
        f"{proxy.scheme}://{proxy.host}:{port}", variable, unquote(proxy.auth or "")
    )


def _is_excluded(netloc: str, host: str, proxies: dict[str, str]) -> bool:
    """Return whether no_proxy contains the host: as a name, a domain, or a network."""
    if any(proxy_bypass(name) for name in (netloc, host)):
        return True
    for entry in re.split(r"[\s,]+", proxies.get("no", "")):
        with suppress(ValueError):
            if ip_address(host) in ip_network(entry, strict=False):
                return True
    return False


def make_context(files: TlsFiles) -> ssl.SSLContext:
    """Return the TLS settings. Raises ValueError."""
    cafile = files.cacert or os.environ.get("SSL_CERT_FILE") or None
    try:
        context = ssl.create_default_context(
            cafile=cafile, capath=os.environ.get("SSL_CERT_DIR") or None
        )
    except OSError as error:
        option = "--cacert" if files.cacert else "SSL_CERT_FILE"
        raise ValueError(
            f"{option}: cannot read certificates from {cafile}: {error.strerror}"
        ) from None
    # Many company CAs do not have all the extensions that the strict mode requires.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if files.cert:
        try:
            context.load_cert_chain(files.cert, files.key, _reject_password)
        except OSError as error:
            raise ValueError(
                f"--cert: cannot read a certificate and its key from {files.cert}"
                f"{f' and {files.key}' if files.key else ''}: {error.strerror}. "
                "Use --key if the key is in a separate file"
            ) from None
    return context


def _reject_password() -> str:
    """Raise ValueError. Without this callback, OpenSSL waits for input."""
    raise ValueError("--cert: the key is encrypted. Decrypt it with openssl pkey")


class LimitedConnection(HTTPConnection):
    """A connection that limits the time for a complete response."""

    sock: socket.socket

    def connect(self) -> None:
        """Connect, and set the timeout for sending the request."""
        super().connect()
        self.sock.settimeout(RESPONSE_TIMEOUT)

    def request(self, *arguments: Any, **options: Any) -> None:
        """Send a request."""
        try:
            super().request(*arguments, **options)
        except ssl.SSLError as error:
            # The server disconnected. It may have sent an alert that states the reason.
            failure: OSError = error
            try:
                self.sock.recv(1)
            except OSError as alert:
                failure = alert
            raise failure from None

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]  # as urllib3
        """Return the complete response. Raises TimeoutError."""
        watched, is_late = self.sock, threading.Event()

        def shut_down() -> None:
            is_late.set()
            with suppress(OSError):
                watched.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(RESPONSE_TIMEOUT, shut_down)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()
            if is_late.is_set():
                raise TimeoutError


class LimitedTlsConnection(LimitedConnection, HTTPSConnection):
    """The same with TLS."""


class Pool(urllib3.HTTPConnectionPool):
    """A pool of connections without TLS."""

    ConnectionCls = LimitedConnection


class TlsPool(urllib3.HTTPSConnectionPool):
    """A pool of connections with TLS."""

    ConnectionCls = LimitedTlsConnection


def open_pools(
    url: str, proxy: Proxy | None, files: TlsFiles, connections: int
) -> urllib3.PoolManager:
    """Return the connection pools for ``url``. Raises ValueError."""
    settings: dict[str, Any] = {
        "maxsize": connections,
        "block": True,
        "timeout": urllib3.Timeout(connect=CONNECT_TIMEOUT, read=RESPONSE_TIMEOUT),
    }
    if "https" in (urlsplit(url).scheme, proxy and urlsplit(proxy.url).scheme):
        settings["ssl_context"] = make_context(files)
    if proxy:
        manager: urllib3.PoolManager = urllib3.ProxyManager(
            proxy.url,
            proxy_headers=proxy.headers,
            proxy_ssl_context=settings.get("ssl_context"),
            **settings,
        )
    else:
        manager = urllib3.PoolManager(**settings)
    manager.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
    return manager


def speaks_tls(host: str, port: int) -> bool:
    """Return whether the server at this port expects TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        suppress(OSError),
        socket.create_connection((host, port), CONNECT_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=host),
    ):
        return True
    return False
