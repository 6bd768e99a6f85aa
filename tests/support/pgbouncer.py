"""PgBouncer with the configuration that is shipped, in front of the tests' server."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg2.extensions import make_dsn, parse_dsn

from tests.support.service import ROOT, free_port

# Debian's is not on everybody's PATH.
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


def version() -> str:
    """Return the name and version of the PgBouncer that is installed."""
    assert PGBOUNCER is not None
    answer = subprocess.run(
        [PGBOUNCER, "--version"], check=True, capture_output=True, text=True
    )
    return answer.stdout.splitlines()[0]


@contextmanager
def pgbouncer(url: str, secret: str) -> Iterator[str]:
    """Run PgBouncer in front of the server at ``url``, which names a login as well, and
    give the URL of the same database through it. ``secret`` is what PostgreSQL has
    stored as the login's password."""
    assert PGBOUNCER is not None
    server = parse_dsn(url)
    port = free_port()
    user = user_for(server["host"])
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        folder = Path(name)
        (folder / "userlist.txt").write_text(f'"{server["user"]}" "{secret}"\n')
        (folder / "pgbouncer.ini").write_text(configuration(server, port, folder))
        if user is not None:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, user)
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [PGBOUNCER, folder / "pgbouncer.ini"], stderr=log, user=user
            )
        try:
            wait_until_it_listens(process, port, folder / "log")
            yield make_dsn(url, host="127.0.0.1", port=port, dbname="bulk_metadata")
        finally:
            process.terminate()
            process.wait(30)


def user_for(host: str) -> str | None:
    """Return the user to run as, where it is not the tests' own. As root it does not
    run; then it is whoever the server's socket belongs to."""
    if os.geteuid() != 0:
        return None
    return Path(host).owner() if host.startswith("/") else "nobody"


def configuration(server: dict[str, str], port: int, folder: Path) -> str:
    """Return what is shipped, with the ports and paths of the tests."""
    text = (ROOT / "deploy" / "pgbouncer.ini").read_text()
    for shipped, ours in (
        (
            "host=127.0.0.1 port=5432 dbname=bulk_metadata",
            f"host={server['host']} port={server.get('port', '5432')}"
            f" dbname={server['dbname']}",
        ),
        ("listen_addr = *", "listen_addr = 127.0.0.1"),
        ("listen_port = 6432", f"listen_port = {port}"),
        ("unix_socket_dir = /var/run/postgresql", f"unix_socket_dir = {folder}"),
        ("auth_file = /etc/pgbouncer/", f"auth_file = {folder}/"),
    ):
        assert text.count(f"{shipped}\n") + text.count(f"{shipped}userlist.txt\n") == 1
        text = text.replace(shipped, ours)
    return text


def wait_until_it_listens(
    process: subprocess.Popen[bytes], port: int, log: Path
) -> None:
    for _ in range(6000):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError(log.read_text())
