"""The metrics of all workers, the dead ones included, out of the folder they share."""

import fcntl
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from bulk_metadata.telemetry.metrics_folder import VARIABLE


def collect() -> bytes:
    """Return the metrics in Prometheus' text format."""
    with _locked(fcntl.LOCK_EX):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return generate_latest(registry)


def forget_worker(worker: int, living: Container[int]) -> None:
    """Forget the gauges of the dead process ``worker``, and add what it has counted to
    what all of the dead have: else each leaves two files, and every look at the metrics
    takes longer. To be called by the workers' parent only, with those that are alive.
    """
    mark_process_dead(worker)
    try:
        with _locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as folder:
            for kind in ("counter", "histogram"):
                for path in folder.glob(f"{kind}_*.db"):
                    process = int(path.stem.removeprefix(f"{kind}_"))
                    if process not in (0, os.getpid()) and process not in living:
                        _move(path, folder / f"{kind}_0.db")
    except BlockingIOError:
        # A look at the metrics is no reason to keep the workers' parent waiting: the
        # files are found when the next worker dies.
        pass


@contextmanager
def _locked(operation: int) -> Iterator[Path]:
    """Give the folder, which nobody reads or changes but who has its lock."""
    folder = Path(os.environ[VARIABLE])
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, operation)
        yield folder


def _move(source: Path, target: Path) -> None:
    """Add the values in ``source`` to those in ``target``, and remove it."""
    total = MmapedDict(str(target))
    for key, value, *_ in MmapedDict.read_all_values_from_file(str(source)):
        total.write_value(key, total.read_value(key)[0] + value, 0.0)
    total.close()
    source.unlink()
