"""The context of the current request, for the access log and the metrics.

A thread serves a request from beginning to end, so the context is local to the thread,
and the steps of a request need not pass it on.
"""

import re
import secrets
import threading
import time

# X-Request-ID of a client: characters that are safe in a header and in a log.
REQUEST_ID = re.compile(r"[ -~]{1,128}")
# API keys must not occur in a log, even in the wrong place.
KEY_LIKE = re.compile(r"tlm_\w+")


class RequestContext(threading.local):
    """The current request. Times are in seconds; unknown values are None."""

    request_id = ""
    method = ""
    path = ""
    organization_id: str | None = None
    key_id: str | None = None
    is_dry_run = False
    devices: int | None = None
    # In a dry run, the number of devices that a real request would update.
    updated: int | None = None
    database_seconds = 0.0
    retries = 0
    # Bytes of the body that were read.
    body_bytes = 0
    exception: BaseException | None = None
    _start = 0.0

    def begin(self, method: str, path: str, request_id: str | None) -> None:
        """Replace the previous request by a new one.

        ``request_id`` is sent by the client. A random one replaces it if it is missing,
        is not printable ASCII, or contains an API key.
        """
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
        """Time since the start of the request."""
        return time.perf_counter() - self._start

    @property
    def not_found(self) -> int | None:
        """Number of identifiers that match no device."""
        if self.devices is None or self.updated is None:
            return None
        return self.devices - self.updated


context = RequestContext()
