"""nginx and PgBouncer with the configuration files of ``deploy/``, and tinyproxy."""

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from tests.support.service import ROOT, Service
from tests.support.waiting import free_port, wait_for_port

# Debian installs both into a directory that is not on every PATH.
SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin"
NGINX = shutil.which("nginx", path=SEARCH_PATH)
TINYPROXY = shutil.which("tinyproxy", path=SEARCH_PATH)
PGBOUNCER = shutil.which("pgbouncer", path=SEARCH_PATH)

REPLICA = "server 127.0.0.1:8000 fail_timeout=1s;"


def configuration(file: str, replacements: Mapping[str, str]) -> str:
    """Return a file of ``deploy/``, each text replaced, which occurs exactly once."""
    text = (ROOT / "deploy" / file).read_text()
    for shipped, ours in replacements.items():
        assert text.count(shipped) == 1, shipped
        text = text.replace(shipped, ours)
    return text


@contextmanager
def nginx(directory: Path, *replicas: Service) -> Iterator[Service]:
    """Run nginx in front of services. Skip the test if it is not installed."""
    port = free_port()
    server = configuration("nginx.conf", {"listen 8080": f"listen 127.0.0.1:{port}"})
    servers = [REPLICA.replace("8000", str(replica.port)) for replica in replicas]
    upstream = configuration("nginx-upstream.conf", {REPLICA: "\n".join(servers)})
    with run_nginx(directory, f"{upstream}\n{server}", port):
        yield Service(port, replicas[0].process, replicas[0].log)


@contextmanager
def run_nginx(directory: Path, configuration: str, port: int) -> Iterator[None]:
    """Run nginx with the content of an ``http`` block that listens on ``port``."""
    if NGINX is None:
        pytest.skip("nginx. To test it: apt-get install nginx-light")
    temporary = "\n".join(
        f"{kind}_temp_path {directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = directory / "nginx.conf"
    file.write_text(
        f"daemon off; pid {directory}/pid; error_log {directory}/error;\n"
        # Otherwise the workers cannot write to the directory.
        f"user {getpass.getuser()};\n"
        "events {}\n"
        f"http {{ access_log off; {temporary}\n{configuration} }}\n"
    )
    process = subprocess.Popen([NGINX, "-p", directory, "-c", file])
    try:
        wait_for_port(port, process)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def tinyproxy(directory: Path, credentials: str = "") -> Iterator[str]:
    """Run tinyproxy, which may require the ``credentials`` "user password". Return its
    host and port."""
    if TINYPROXY is None:
        pytest.skip("tinyproxy. To test it: apt-get install tinyproxy-bin")
    port = free_port()
    file = directory / "tinyproxy.conf"
    file.write_text(
        f"Listen 127.0.0.1\nPort {port}\nTimeout 60\n"
        + (f"BasicAuth {credentials}\n" if credentials else "")
    )
    process = subprocess.Popen([TINYPROXY, "-d", "-c", file], stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def pgbouncer_version() -> str:
    """Return the name and version of the installed PgBouncer."""
    assert PGBOUNCER is not None
    output = subprocess.run(
        [PGBOUNCER, "--version"], check=True, capture_output=True, text=True
    )
    return output.stdout.splitlines()[0]


@contextmanager
def pgbouncer(url: str, secret: str) -> Iterator[str]:
    """Run PgBouncer in front of the server at ``url`` and return the URL of the same
    database through it. ``secret`` is the password of its user as PostgreSQL stores it.
    """
    assert PGBOUNCER is not None
    server = parse_dsn(url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        directory = Path(name)
        database = (
            f"host={server['host']} port={server.get('port', '5432')}"
            f" dbname={server['dbname']}"
        )
        text = configuration(
            "pgbouncer.ini",
            {
                "host=127.0.0.1 port=5432 dbname=bulk_metadata\n": f"{database}\n",
                "listen_addr = *\n": "listen_addr = 127.0.0.1\n",
                "listen_port = 6432\n": f"listen_port = {port}\n",
                "= /var/run/postgresql\n": f"= {directory}\n",
                "= /etc/pgbouncer/": f"= {directory}/",
            },
        )
        (directory / "pgbouncer.ini").write_text(text)
        (directory / "userlist.txt").write_text(f'"{server["user"]}" "{secret}"\n')
        user = pgbouncer_user(server["host"])
        if user is not None:
            for path in (directory, *directory.iterdir()):
                shutil.chown(path, user)
        process = subprocess.Popen([PGBOUNCER, directory / "pgbouncer.ini"], user=user)
        try:
            wait_for_port(port, process)
            yield make_dsn(url, host="127.0.0.1", port=port, dbname="bulk_metadata")
        finally:
            process.terminate()
            process.wait(30)


def pgbouncer_user(host: str) -> str | None:
    """Return the user to run PgBouncer as, which rejects root: the owner of the socket
    of the server."""
    if os.geteuid() != 0:
        return None
    return Path(host).owner() if host.startswith("/") else "nobody"
