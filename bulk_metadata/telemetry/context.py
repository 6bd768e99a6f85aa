"""What is known of the request that this thread serves, for the log and the metrics.

A thread serves a request from beginning to end, so this is the thread's own, and no
step of the request has to hand it on.
"""

import re
import secrets
import threading
import time

# What a caller's X-Request-ID may be: what can stand in a header and in a log.
REQUEST_ID = re.compile(r"[ -~]{1,128}")
# Whatever it is that looks like a key, no log may show it.
KEY_LIKE = re.compile(r"tlm_\w+")


class Record(threading.local):
    """One request. Times are in seconds; what is not known (yet) is None."""

    request_id = ""
    method = ""
    path = ""
    organization_id: str | None = None
    key_id: str | None = None
    is_dry_run = False
    devices: int | None = None
    # Of a dry run, how many would be.
    updated: int | None = None
    database_seconds = 0.0
    retries = 0
    # Bytes of the body, as far as it was read.
    body_bytes = 0
    exception: BaseException | None = None
    _start = 0.0

    def begin(self, method: str, path: str, request_id: str | None) -> None:
        """Forget the request before. ``request_id`` is the caller's, and replaced if it
        is none, or looks like a key."""
        self.__dict__.clear()
        self._start = time.perf_counter()
        self.method = method
        self.path = KEY_LIKE.sub("tlm_...", path)
        if (
            request_id
            and REQUEST_ID.fullmatch(request_id)
            and not KEY_LIKE.search(request_id)
        ):
            self.request_id = request_id
        else:
            self.request_id = secrets.token_hex(16)

    @property
    def seconds(self) -> float:
        """How long the request has been served by now."""
        return time.perf_counter() - self._start

    @property
    def not_found(self) -> int | None:
        """How many identifiers matched no device."""
        if self.devices is None or self.updated is None:
            return None
        return self.devices - self.updated


record = Record()
