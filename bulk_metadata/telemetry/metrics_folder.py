"""The folder in which the workers share their metrics, gone when the service is."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Where prometheus_client looks for it, once, when it is imported.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

# Memory: a disk that is busy would make every request wait to count itself.
MEMORY = Path("/dev/shm")  # noqa: S108  # what is in it belongs to this process alone


def make_metrics_folder() -> None:
    """Make the folder for this process and those it forks; once, also if it reloads.

    To be called before prometheus_client is imported.
    """
    # Behind the name stands who made it: a folder that was inherited is another's.
    mine = f".{os.getpid()}"
    if os.environ.get(VARIABLE, "").endswith(mine):
        return
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="bulk-metadata-", suffix=mine, dir=memory)
    os.environ[VARIABLE] = folder
    atexit.register(_remove, folder)
    # Forked workers end as well, but the folder is not theirs.
    os.register_at_fork(after_in_child=lambda: atexit.unregister(_remove))


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
