"""The peers: other ways to build the same endpoint, each a program of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
ENVIRONMENTS = ROOT / ".venv-peers"


@dataclass(frozen=True)
class Peer:
    """A program that answers as the service does, on the same tables."""

    name: str
    title: str
    folder: Path

    @property
    def environment(self) -> Path:
        """The virtual environment that its requirements are installed in."""
        return ENVIRONMENTS / self.name

    @property
    def runs_on_node(self) -> bool:
        """Whether it is Node's, and has its packages in its own folder."""
        return (self.folder / "package.json").exists()


DJANGO = "Django bulk_update"

PEERS = [
    Peer(name, title, Path(__file__).parent / "peers" / name)
    for name, title in [
        ("django", DJANGO),
        ("sqlalchemy", "SQLAlchemy 2 ORM"),
        ("flask", "Flask, marshmallow, execute_values"),
        ("fastapi", "FastAPI + asyncpg"),
        ("fastify", "Fastify + pg"),
    ]
]


class Missing(Exception):
    """A peer cannot be installed here; says why, in a sentence."""


def install(peer: Peer) -> None:
    """Install what ``peer`` needs, once, and again when its requirements changed.

    Raises Missing where that is not possible: without Node, or without a network.
    """
    if peer.runs_on_node:
        requirements = peer.folder / "package-lock.json"
        stamp = peer.folder / "node_modules" / "installed"
        steps = [["npm", "ci", "--prefix", str(peer.folder), "--no-audit", "--no-fund"]]
    else:
        requirements = peer.folder / "requirements.txt"
        stamp = peer.environment / "installed"
        pip = [str(peer.environment / "bin" / "python"), "-m", "pip", "install"]
        steps = [
            [sys.executable, "-m", "venv", str(peer.environment)],
            [*pip, "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
        ]
    if stamp.exists() and stamp.stat().st_mtime > requirements.stat().st_mtime:
        return
    print(f"Installing {peer.title} ...", flush=True)
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise Missing(f"{peer.title} needs {step[0]}, which is not here.") from None
        except subprocess.CalledProcessError as error:
            raise Missing(
                f"{peer.title} could not be installed:\n{error.stderr.strip()}"
            ) from None
    stamp.touch()


@contextmanager
def run(
    peer: Peer,
    database_url: str,
    port: int,
    workers: int,
    connections: int,
    log: Path,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``peer`` at ``port`` of 127.0.0.1, and end it with its workers.

    ``connections`` are threads and database connections of each worker. Raises
    RuntimeError with the end of the log if it does not listen.
    """
    if accepts_connections(port):
        raise RuntimeError(f"Another process listens at port {port} already.")
    with log.open("w") as output:
        process = subprocess.Popen(
            [peer.folder / "start"],
            env={
                **os.environ,
                "VENV": str(peer.environment),
                "DATABASE_URL": database_url,
                "PORT": str(port),
                "WORKERS": str(workers),
                "CONNECTIONS": str(connections),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(peer, process, port, log)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for_port(
    peer: Peer, process: subprocess.Popen[bytes], port: int, log: Path
) -> None:
    """Return when ``process`` accepts connections at ``port``."""
    while process.poll() is None:
        if accepts_connections(port):
            return
        time.sleep(0.05)
    tail = "\n".join(log.read_text().splitlines()[-20:])
    raise RuntimeError(f"{peer.title} did not start:\n{tail}")


def accepts_connections(port: int) -> bool:
    """Tell whether somebody listens at ``port`` of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
