"""nginx with the configuration that is shipped, in front of one or more services."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.cluster import wait_until
from tests.support.service import ROOT, Service, free_port

# Debian's is not on everybody's PATH.
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

REPLICA = "server 127.0.0.1:8000 fail_timeout=1s;"


@contextmanager
def nginx(folder: Path, *replicas: Service) -> Iterator[Service]:
    """Run it; the test is skipped where there is none."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    server = (ROOT / "deploy" / "nginx.conf").read_text()
    server = server.replace("listen 8080", f"listen 127.0.0.1:{port}")
    upstream = (ROOT / "deploy" / "nginx-upstream.conf").read_text()
    assert REPLICA in upstream
    upstream = upstream.replace(
        REPLICA, "\n".join(REPLICA.replace("8000", str(r.port)) for r in replicas)
    )
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error;\n"
        "events {}\n"
        f"http {{ access_log off; {temporary}\n{upstream}\n{server} }}\n"
    )
    process = subprocess.Popen([NGINX, "-p", folder, "-c", configuration])
    try:
        wait_until(lambda: listens(port), "nginx")
        yield Service(port, replicas[0].process, replicas[0].log)
    finally:
        process.terminate()
        process.wait(30)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
