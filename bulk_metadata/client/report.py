"""The end of a run: what is said, and the exit code."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from bulk_metadata.client.tally import WORDS, Tally
from bulk_metadata.core.text import counted

ALL_UPDATED = 0
FAILED = 1
SOME_NOT_FOUND = 3


class Summary(NamedTuple):
    """What a run has come to."""

    name: str
    tally: Tally
    seconds: float
    results: Path
    # Where the journal is, if the run can be resumed.
    journal: Path | None
    # Why it failed, if it did.
    failure: str
    # The signal that ended it, if one did.
    signal: int = 0

    @property
    def exit_code(self) -> int:
        """For scripts."""
        answered = self.tally.statuses.total() - self.tally.statuses["not_sent"]
        # Too late to end anything, if the journal of what was answered is gone.
        if self.signal and (self.journal or not answered):
            return 128 + self.signal
        statuses = {status for status, n in self.tally.statuses.items() if n}
        if self.failure or self.journal or statuses & {"invalid", "refused"}:
            return FAILED
        return SOME_NOT_FOUND if "not_found" in statuses else ALL_UPDATED

    def as_text(self) -> str:
        """For people."""
        devices = self.tally.statuses.total()
        lines = [
            f"{counted(devices, 'device')} of {self.name} in {self.seconds:,.1f} s",
            *(
                f"{self.tally.statuses[status]:>13,} {words}"
                for status, words in WORDS.items()
                if self.tally.statuses[status]
            ),
        ]
        if self.tally.retries:
            lines.append(f"{self.tally.retries:>13,} calls sent again")
        lines.append(f"Results: {self.results}")
        if self.failure:
            lines.append(f"Failed: {self.failure}")
        if self.journal:
            lines.append("Go on with the same command and --resume.")
        return "\n".join(lines)

    def as_json(self) -> bytes:
        """For scripts: one line."""
        statuses = self.tally.statuses
        return msgspec.json.encode(
            {
                "summary": {
                    "devices": statuses.total(),
                    "updated": statuses["updated"],
                    "wouldUpdate": statuses["would_update"],
                    "notFound": statuses["not_found"],
                    "invalid": statuses["invalid"],
                    "refused": statuses["refused"],
                    "notSent": statuses["not_sent"],
                    "retries": self.tally.retries,
                    "seconds": round(self.seconds, 3),
                    "results": str(self.results),
                    "resumable": self.journal is not None,
                    "failure": self.failure,
                }
            }
        )
