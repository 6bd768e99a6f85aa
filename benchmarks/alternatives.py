"""Alternative implementations of the endpoint, each a separate program."""

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
ENVIRONMENTS = ROOT / ".venv-alternatives"

WORKERS = 2
# Threads and database connections of each worker.
CONNECTIONS = 4


@dataclass(frozen=True)
class Alternative:
    """A program with the same endpoint and the same tables as the service."""

    name: str
    title: str
    directory: Path

    @property
    def environment(self) -> Path:
        """The virtual environment with its requirements."""
        return ENVIRONMENTS / self.name

    @property
    def runs_on_node(self) -> bool:
        """Whether it is a Node program, with its packages in its own directory."""
        return (self.directory / "package.json").exists()


FLASK, FASTAPI = "Flask, marshmallow, execute_values", "FastAPI + asyncpg"

ALTERNATIVES = [
    Alternative(name, title, Path(__file__).parent / "alternatives" / name)
    for name, title in [
        ("django", "Django bulk_update"),
        ("sqlalchemy", "SQLAlchemy 2 ORM"),
        ("flask", FLASK),
        ("fastapi", FASTAPI),
        ("fastify", "Fastify + pg"),
    ]
]

# The lower bound for Flask and gunicorn. It does not access the database.
EMPTY_VIEW = Alternative(
    "empty", "empty Flask view", Path(__file__).parent / "alternatives" / "empty"
)


class InstallationError(Exception):
    """An alternative cannot be installed. The message contains the reason."""


def install(alternative: Alternative) -> None:
    """Install the packages of ``alternative`` unless they are up to date.

    Raises InstallationError if that is not possible, for example without a network.
    """
    if alternative == EMPTY_VIEW:
        return  # runs with the packages of the service
    if alternative.runs_on_node:
        directory = alternative.directory
        requirements = directory / "package-lock.json"
        stamp = directory / "node_modules" / "installed"
        commands = [["npm", "ci", "--prefix", str(directory), "--no-audit"]]
    else:
        requirements = alternative.directory / "requirements.txt"
        stamp = alternative.environment / "installed"
        pip = [str(alternative.environment / "bin" / "python"), "-m", "pip", "install"]
        commands = [
            [sys.executable, "-m", "venv", str(alternative.environment)],
            [*pip, "--quiet", "--disable-pip-version-check", "-r", str(requirements)],
        ]
    if stamp.exists() and stamp.stat().st_mtime > requirements.stat().st_mtime:
        return
    print(f"Installing {alternative.title} ...", flush=True)
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise InstallationError(
                f"{alternative.title} requires {command[0]}, which is not installed."
            ) from None
        except subprocess.CalledProcessError as error:
            raise InstallationError(
                f"{alternative.title} could not be installed:\n{error.stderr.strip()}"
            ) from None
    stamp.touch()


@contextmanager
def run(
    alternative: Alternative, database_url: str, port: int, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``alternative`` on ``port`` of 127.0.0.1.

    Raises RuntimeError with the end of the log if it does not start.
    """
    if accepts_connections(port):
        raise RuntimeError(f"Port {port} is already in use.")
    path = (
        alternative.environment / "bin",
        Path(sys.executable).parent,
        os.environ["PATH"],
    )
    with log.open("w") as output:
        process = subprocess.Popen(
            [alternative.directory / "start"],
            env={
                **os.environ,
                "PATH": os.pathsep.join(map(str, path)),
                "DATABASE_URL": database_url,
                "PORT": str(port),
                "WORKERS": str(WORKERS),
                "CONNECTIONS": str(CONNECTIONS),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for_port(alternative, process, port, log)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for_port(
    alternative: Alternative, process: subprocess.Popen[bytes], port: int, log: Path
) -> None:
    """Return when ``process`` accepts connections on ``port``."""
    while process.poll() is None:
        if accepts_connections(port):
            return
        time.sleep(0.05)
    tail = "\n".join(log.read_text().splitlines()[-20:])
    raise RuntimeError(f"{alternative.title} did not start:\n{tail}")


def accepts_connections(port: int) -> bool:
    """Return whether a process listens on ``port`` of 127.0.0.1."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
