"""The count of what has become of a run's devices."""

import threading
from collections import Counter

# The statuses of devices, in the words for people.
WORDS = {
    "updated": "updated",
    "would_update": "would be updated",
    "not_found": "not found",
    "invalid": "invalid",
    "refused": "refused",
    "not_sent": "not sent",
}


class Tally:
    """How many devices have which status, and how many calls were sent again."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.retries = 0
        #: Why the last of them was.
        self.last_retry = ""
        self._lock = threading.Lock()

    def retry(self, reason: str) -> None:
        """Count a call that is sent again. Any thread may say so."""
        with self._lock:
            self.retries += 1
            self.last_retry = reason

    def __str__(self) -> str:
        parts = [
            f"{self.statuses[status]:,} {words}"
            for status, words in WORDS.items()
            if self.statuses[status]
        ]
        if self.retries:
            parts.append(f"{self.retries:,} retried ({self.last_retry})")
        return ", ".join(parts)
