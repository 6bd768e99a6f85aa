"""Proxies, certificates, timeouts and error pages, with real nginx and tinyproxy."""

import gzip
import socket
import ssl
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bulk_metadata.client import connection, transport
from bulk_metadata.client.connection import LimitedConnection, TlsFiles, find_proxy
from bulk_metadata.client.retry import RequestError
from bulk_metadata.client.transport import Transport, endpoint
from tests.conftest import Organization
from tests.support.client_runner import Client, numbered
from tests.support.fault_proxy import FaultProxy, Handler, run_proxy
from tests.support.proxies import run_nginx, tinyproxy
from tests.support.service import Service
from tests.support.tcp_proxy import spawn
from tests.support.waiting import free_port

DEVICES = numbered(10, padding="x" * 10_000)

CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
# Takes less time to create than an RSA key.
NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SERVER = "subjectAltName=IP:127.0.0.1\n"
NGINX_SERVER = """
server {{
    listen 127.0.0.1:{port} {options};
    {directives}
    location / {{ proxy_pass http://127.0.0.1:{target}; {location} }}
}}
"""


@pytest.fixture(autouse=True)
def fleet(pusher: Client, acme: Organization) -> None:
    pusher.write(DEVICES)
    acme.insert(*DEVICES)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root CA, an intermediate CA, and the certificates that it issued."""
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            ["openssl", *arguments], cwd=directory, check=True, capture_output=True
        )

    def issue(name: str, issuer: str, extensions: str) -> None:
        (directory / "extensions").write_text(extensions)
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("req", *NEW_KEY, *files, "-subj", f"/CN={name}")
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt"),
            *("-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial"),
            *("-extfile", "extensions"),
        )

    for name in ("root", "other"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        openssl("req", "-x509", *NEW_KEY, *files, "-subj", f"/CN={name}")
    issue("intermediate", "root", CA)
    issue("server", "intermediate", SERVER)
    issue("client", "intermediate", "basicConstraints=CA:FALSE\n")
    openssl(
        "ec", "-in", "client.key", "-aes128", "-passout", "pass:x", "-out", "aes.key"
    )
    for name in ("server", "client", "other"):
        parts = [f"{name}.crt", "intermediate.crt", f"{name}.key"]
        (directory / f"{name}.pem").write_text(
            "".join((directory / part).read_text() for part in parts)
        )
    return directory


@contextmanager
def secure_proxy(
    service: Service, certificates: Path, *, ask: bool = False
) -> Iterator[FaultProxy]:
    """Run the fault proxy with TLS. With ``ask``, it requires a client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "root.crt")
    with run_proxy(service.port, context) as proxy:
        yield proxy


@pytest.fixture
def secure(
    pusher: Client, service: Service, certificates: Path
) -> Iterator[FaultProxy]:
    """A service with a certificate of a company CA."""
    with secure_proxy(service, certificates) as proxy:
        pusher.url = f"https://127.0.0.1:{proxy.port}"
        yield proxy


@pytest.fixture
def demanding(
    pusher: Client, service: Service, certificates: Path
) -> Iterator[FaultProxy]:
    """The same, which requires a client certificate."""
    with secure_proxy(service, certificates, ask=True) as proxy:
        pusher.url = f"https://127.0.0.1:{proxy.port}"
        yield proxy


def test_company_ca_is_trusted(
    pusher: Client, secure: FaultProxy, certificates: Path
) -> None:
    ca = str(certificates / "root.crt")
    assert pusher.push("--cacert", ca).code == 0
    pusher.variables = {"SSL_CERT_FILE": ca}
    assert pusher.push().code == 0
    assert len(secure.requests) == 2


def test_untrusted_certificate_ends_run(pusher: Client, secure: FaultProxy) -> None:
    done = pusher.push()
    assert done.code == 1
    assert (
        f"Error: the certificate of 127.0.0.1:{secure.port} is not trusted: "
        in done.err
    )
    assert "pass the CA with --cacert FILE, or set SSL_CERT_FILE.\n" in done.err
    assert not secure.requests


@pytest.mark.parametrize(
    "files", [["--cert", "client.pem"], ["--cert", "client.crt", "--key", "client.key"]]
)
def test_client_certificate_is_sent(
    pusher: Client, demanding: FaultProxy, certificates: Path, files: list[str]
) -> None:
    pusher.variables = {"SSL_CERT_FILE": str(certificates / "root.crt")}
    # The intermediate CA is in client.pem only.
    if files[1] == "client.crt":
        chain = (certificates / "client.pem").read_text()
        (pusher.directory / "client.crt").write_text(
            chain.partition("-----BEGIN PR")[0]
        )
        (pusher.directory / "client.key").write_bytes(
            (certificates / "client.key").read_bytes()
        )
        arguments = files
    else:
        arguments = ["--cert", str(certificates / "client.pem")]
    assert pusher.push(*arguments).code == 0


@pytest.mark.parametrize("certificate", [None, "other.pem"])
def test_missing_client_certificate_ends_run(
    pusher: Client, demanding: FaultProxy, certificates: Path, certificate: str | None
) -> None:
    options = ["--cert", str(certificates / certificate)] if certificate else []
    done = pusher.push("--cacert", str(certificates / "root.crt"), *options)
    assert done.code == 1
    problem = "rejects the" if certificate else "requires a"
    error = f"Error: 127.0.0.1:{demanding.port} {problem} client certificate ("
    assert error in done.err
    assert "pass the certificate and its key with --cert FILE.\n" in done.err


def test_alert_of_disconnected_server_is_reported(certificates: Path) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates / "server.pem")
    server.load_verify_locations(certificates / "root.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=certificates / "root.crt")
    near, far = socket.socketpair()

    def reject() -> None:
        with suppress(ssl.SSLError):
            server.wrap_socket(far, server_side=True)

    thread = threading.Thread(target=reject)
    thread.start()
    with near:
        connected = client.wrap_socket(near, server_hostname="127.0.0.1")
        thread.join()
        request = LimitedConnection("127.0.0.1")
        request.sock = connected
        with pytest.raises(ssl.SSLError, match="certificate required"):
            request.request("POST", "/", b"{}")
        connected.close()


def test_http_to_tls_port_ends_run(pusher: Client, secure: FaultProxy) -> None:
    pusher.url = f"http://127.0.0.1:{secure.port}"
    done = pusher.push()
    assert done.code == 1
    error = f"Error: 127.0.0.1:{secure.port} expects TLS: use https:// in --url.\n"
    assert error in done.err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cacert", "{0}/client.key"], "--cacert: cannot read certificates from "),
        (["--cert", "{0}/client.crt"], "--cert: cannot read a certificate and its key"),
        (
            ["--cert", "{0}/client.crt", "--key", "{0}/server.key"],
            "--cert: cannot read a certificate and its key",
        ),
        (
            ["--cert", "{0}/client.crt", "--key", "{0}/aes.key"],
            "--cert: the key is encrypted. Decrypt it with openssl pkey.",
        ),
    ],
)
def test_invalid_tls_file_is_rejected(
    pusher: Client, certificates: Path, options: list[str], reason: str
) -> None:
    pusher.url = "https://127.0.0.1:1"
    done = pusher.push(*(option.format(certificates) for option in options))
    assert done.code == 1
    assert done.err.startswith(f"Error: {reason}")


@pytest.mark.parametrize("option", ["--cacert", "--cert", "--key"])
def test_tls_option_requires_https(pusher: Client, option: str) -> None:
    done = pusher.push(option, "fleet.ndjson")
    assert done.code == 2
    assert done.err.endswith(
        "Error: --cacert, --cert and --key require https:// in --url.\n"
    )


def test_missing_ssl_cert_file_is_reported(pusher: Client) -> None:
    pusher.url = "https://127.0.0.1:1"
    pusher.variables = {"SSL_CERT_FILE": "missing.pem"}
    assert pusher.push().err == (
        "Error: SSL_CERT_FILE: cannot read certificates from missing.pem: No such file "
        "or directory.\n"
    )


@pytest.mark.parametrize(
    ("variable", "credentials"),
    [
        ("http_proxy", ""),
        ("http_proxy", "job secret99"),
        ("HTTP_PROXY", "job secret99"),
        ("ALL_PROXY", "job secret99"),
    ],
)
def test_http_proxy_is_used(
    pusher: Client, proxy: FaultProxy, tmp_path: Path, variable: str, credentials: str
) -> None:
    with tinyproxy(tmp_path, credentials) as address:
        login = credentials.replace(" ", ":") + "@" if credentials else ""
        pusher.variables = {variable: f"http://{login}{address}"}
        assert pusher.push("--batch-size=3").code == 0
    assert {request.headers.get("Via", "none") for request in proxy.requests} != {
        "none"
    }
    assert all("Proxy-Authorization" not in each.headers for each in proxy.requests)


def test_https_proxy_is_used(
    pusher: Client, secure: FaultProxy, certificates: Path, tmp_path: Path
) -> None:
    with tinyproxy(tmp_path, "job secret99") as address:
        pusher.variables = {
            "https_proxy": f"http://job:secret99@{address}",
            "SSL_CERT_FILE": str(certificates / "root.crt"),
        }
        assert pusher.push().code == 0
        pusher.variables["https_proxy"] = f"http://job:wrong77@{address}"
        done = pusher.push()
    assert done.code == 1
    assert (
        f"Error: 401 from the proxy {address}. The proxy {address} requires "
        in done.err
    )
    assert "requires another user or password: set https_proxy.\n" in done.err
    assert "wrong77" not in done.out + done.err


@pytest.mark.parametrize(
    ("login", "status"),
    [("job:wrong77@", "401 Unauthorized"), ("", "407 Proxy Authentication Required")],
)
def test_rejected_proxy_password_ends_run(
    pusher: Client, tmp_path: Path, login: str, status: str
) -> None:
    with tinyproxy(tmp_path, "job secret99") as address:
        pusher.variables = {"http_proxy": f"http://{login}{address}"}
        done = pusher.push()
    assert done.code == 1
    assert f"Error: {status}. " in done.err
    assert (
        f"The proxy {address} requires another user or password: set http_proxy.\n"
        in done.err
    )
    assert "wrong77" not in done.out + done.err


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unavailable_proxy_is_named(pusher: Client, scheme: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    pusher.url = f"{scheme}://127.0.0.1:1"
    pusher.variables = {f"{scheme}_proxy": f"http://job:secret99@{address}"}
    done = pusher.push("--attempts=2")
    assert done.code == 1
    error = (
        f"Error: all requests fail: no connection to the proxy {address}: Connection r"
    )
    assert error in done.err
    assert "secret99" not in done.out + done.err


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\n\r\n",
            "403 from the proxy 127.0.0.1:{port}: it does not permit service.example.",
        ),
        (
            b"",
            "all requests fail: the connection to service.example (through the proxy ",
        ),
    ],
)
def test_connect_contains_no_api_key(pusher: Client, reply: bytes, reason: str) -> None:
    heads = []

    def serve(listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            with client:
                heads.append(client.recv(65536))
                client.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        spawn(serve, listener)
        pusher.url = "https://service.example"
        port = listener.getsockname()[1]
        pusher.variables = {"https_proxy": f"http://j%40b:p%3Aw@127.0.0.1:{port}"}
        done = pusher.push("--attempts=1")
    assert f"Error: {reason.format(port=port)}" in done.err
    assert heads[0].startswith(b"CONNECT service.example:443 HTTP/1.")
    assert b"Proxy-Authorization: Basic akBiOnA6dw==\r\n" in heads[0]
    assert pusher.key.encode() not in heads[0]


def test_reset_by_proxy_is_diagnosed(pusher: Client) -> None:
    """A proxy that rejects a request resets the connection while the body is sent."""
    replies = iter([b"", b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n"])

    def serve(listener: socket.socket) -> None:
        for reply in replies:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        spawn(serve, listener)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        pusher.url = "http://service.example"
        pusher.variables = {"http_proxy": f"http://{address}"}
        done = pusher.push("--attempts=1")
    assert done.code == 1
    assert f"The proxy {address} requires another user or password" in done.err


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_used"),
    [
        ("", "http://host", True),
        ("host", "http://host:8000", False),
        ("other,host", "http://host", False),
        (".example", "http://a.example", False),
        ("example", "http://a.example", False),
        ("example", "http://counterexample", True),
        ("host:8000", "http://host:8000", False),
        ("host:8000", "http://host:9000", True),
        ("*", "http://host", False),
        ("10.0.0.0/8 127.0.0.1", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://11.1.2.3", True),
        ("::1", "http://[::1]:8000", False),
    ],
)
def test_no_proxy_excludes_hosts(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, url: str, is_used: bool
) -> None:
    monkeypatch.setenv("http_proxy", "proxy.example:3128")
    monkeypatch.setenv("no_proxy", no_proxy)
    proxy = find_proxy(url)
    assert (proxy is not None) is is_used
    assert proxy is None or proxy.url == "http://proxy.example:3128"


@pytest.mark.parametrize("value", ["socks5://j:secret99@h:1", "http://j:secret99/x@h"])
def test_invalid_proxy_is_rejected(pusher: Client, value: str) -> None:
    pusher.variables = {"http_proxy": value}
    done = pusher.push()
    assert done.code == 1
    assert done.err == (
        "Error: http_proxy must be a URL such as http://HOST:PORT. If the proxy "
        "requires a password, write USER:PASSWORD@ before the host, percent-encoded.\n"
    )


@contextmanager
def nginx_in_front(
    pusher: Client,
    target: int,
    directives: str = "",
    location: str = "",
    options: str = "",
) -> Iterator[None]:
    port = free_port()
    server = NGINX_SERVER.format(
        port=port,
        options=options,
        target=target,
        directives=directives,
        location=location,
    )
    pusher.url = f"http://127.0.0.1:{port}"
    with run_nginx(pusher.directory, server, port):
        yield


def test_nginx_413_splits_batches(
    pusher: Client, acme: Organization, service: Service
) -> None:
    with nginx_in_front(pusher, service.port, "client_max_body_size 30k;"):
        done = pusher.push("--json")
    assert done.code == 0, done.err
    assert acme.metadata() == DEVICES


def test_nginx_502_and_504_are_retried(pusher: Client) -> None:
    with nginx_in_front(pusher, free_port()):
        done = pusher.push("--attempts=2", "--json")
    assert done.summary["failure"] == "all requests fail: 502 Bad Gateway"
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        nginx_in_front(
            pusher, silent.getsockname()[1], location="proxy_read_timeout 50ms;"
        ),
    ):
        done = pusher.push("--attempts=2", "--json")
    assert done.summary["failure"] == "all requests fail: 504 Gateway Time-out"
    assert done.summary["retries"] == 1


@pytest.mark.parametrize(
    ("scheme", "verify", "title"),
    [
        ("http", "off", "400 The plain HTTP request was sent to HTTPS port"),
        ("https", "on", "400 No required SSL certificate was sent"),
    ],
)
def test_nginx_tls_error_page_ends_run(
    pusher: Client,
    service: Service,
    certificates: Path,
    scheme: str,
    verify: str,
    title: str,
) -> None:
    directives = (
        f"ssl_certificate {certificates}/server.pem;"
        f" ssl_certificate_key {certificates}/server.key;"
        f" ssl_client_certificate {certificates}/root.crt; ssl_verify_client {verify};"
    )
    with nginx_in_front(pusher, service.port, directives, options="ssl"):
        pusher.url = pusher.url.replace("http", scheme)
        pusher.variables = {"SSL_CERT_FILE": str(certificates / "root.crt")}
        done = pusher.push()
    assert done.code == 1
    assert f'Error: 400 Bad Request, page title "{title}".\n' in done.err


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress)],
)
def test_encoded_response_is_decoded(
    pusher: Client, proxy: FaultProxy, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    def fault(handler: Handler) -> None:
        response = handler.forward()
        response.body = compress(response.body)
        response.headers = {**response.headers, "Content-Encoding": encoding}
        handler.reply(response)

    proxy.choose = lambda request: fault
    assert pusher.push().code == 0
    assert encoding in proxy.requests[0].headers["Accept-Encoding"]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_endless_response_times_out(
    monkeypatch: pytest.MonkeyPatch, certificates: Path, head: bytes, scheme: str
) -> None:
    for module in (connection, transport):
        monkeypatch.setattr(module, "RESPONSE_TIMEOUT", 1)
    disconnected = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem")

    def serve(listener: socket.socket) -> None:
        client, _ = listener.accept()
        if scheme == "https":
            client = context.wrap_socket(client, server_side=True)
        with client, suppress(OSError):
            client.recv(65536)
            client.sendall(head)
            while not disconnected.wait(0.05):
                client.sendall(b" ")
        disconnected.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        spawn(serve, listener)
        sender = Transport(
            endpoint(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"),
            "key",
            TlsFiles(certificates / "root.crt"),
            dry_run=False,
            connections=1,
            stop=threading.Event(),
        )
        with pytest.raises(RequestError, match=r"^no complete response within 1 s$"):
            sender.replace(b"{}")
    assert disconnected.wait(60)
