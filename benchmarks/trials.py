"""The settings of PostgreSQL that are tried, each beside what it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MANY = 100_000
# Where it matters that the table is larger than the smaller of two sizes.
MORE = 1_000_000

# In place of benchmarks.database.SETTINGS, whose buffers hold everything.
SMALL_BUFFERS = {"shared_buffers": "128MB"}
# Checkpoints are due when about half of this is written.
SMALL_WAL = {"max_wal_size": "1GB"}
COMPRESSED = {"wal_compression": "pglz"}


@dataclass(frozen=True)
class Side:
    """A server, and how it is called."""

    name: str
    settings: Mapping[str, str] = field(default_factory=dict)
    # What its owner does once there is a fleet.
    statements: tuple[str, ...] = ()
    # Before each call a checkpoint, which is not part of what the call takes.
    checkpoints: bool = False
    # As the service connects, or as anyone else does.
    pinned: bool = True


@dataclass(frozen=True)
class Trial:
    """Servers that are measured side by side; the first one is what is usual."""

    name: str
    sides: tuple[Side, ...]
    rounds: int
    fleet: int = MANY
    # Calls name devices that were created one after another, and so share pages.
    neighbours: bool = False


def fillfactor(percent: int) -> tuple[str, ...]:
    """Return what packs the table anew, with so much of each page filled."""
    return (
        f"ALTER TABLE devices SET (fillfactor = {percent})",
        "VACUUM FULL devices",
        "VACUUM ANALYZE devices",
    )


FILLFACTORS = (
    Side("`fillfactor = 70`", statements=fillfactor(70)),
    Side("`fillfactor = 100`", statements=fillfactor(100)),
)

TRIALS = (
    Trial(
        "What a commit waits for",
        (
            Side("`synchronous_commit = on`"),
            Side("`synchronous_commit = off`", {"synchronous_commit": "off"}),
        ),
        1000,
    ),
    Trial(
        "Calls after a checkpoint",
        (
            Side("later"),
            Side("directly after one", checkpoints=True),
            Side("the same, `wal_compression = pglz`", COMPRESSED, checkpoints=True),
        ),
        300,
    ),
    Trial(
        "How often there are checkpoints",
        (
            Side("`max_wal_size = 1GB`", SMALL_WAL),
            Side("`max_wal_size = 1GB`, `pglz`", SMALL_WAL | COMPRESSED),
            Side("`max_wal_size = 16GB`"),
        ),
        1500,
        MORE,
    ),
    Trial(
        "Memory",
        (
            Side("`shared_buffers = 128MB`", SMALL_BUFFERS),
            Side("`shared_buffers = 1GB`"),
        ),
        600,
        MORE,
    ),
    Trial("Room on each page, devices at random", FILLFACTORS, 2000),
    Trial("Room on each page, devices in order", FILLFACTORS, 2000, neighbours=True),
    Trial(
        "An index on what changes",
        (
            Side("no index"),
            Side(
                "GIN on `device_metadata`",
                statements=("CREATE INDEX ON devices USING gin (device_metadata)",),
            ),
        ),
        300,
    ),
    Trial("The plan", (Side("pinned"), Side("not pinned", pinned=False)), 300),
)
