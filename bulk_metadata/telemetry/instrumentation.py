"""What every answer leaves behind: its X-Request-ID, a line in the log, the metrics."""

from flask import Flask, Response, request

from bulk_metadata.telemetry import access_log, metrics
from bulk_metadata.telemetry.context import record

# The API's own blueprint, and what is no endpoint at all: health checks are not calls.
COUNTED = ("bulk_metadata", None)


def register_observers(app: Flask, *, is_api: bool = True) -> None:
    """Make ``app`` observe every request from its beginning to its answer. If it is not
    the API only what fails leaves a line in the log."""

    @app.before_request
    def begin() -> None:
        record.begin(request.method, request.path, request.headers.get("X-Request-ID"))

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-ID"] = record.request_id
        if is_api or record.exception:
            is_call = is_api and request.blueprint in COUNTED
            finish(response.status_code, counted=is_call)
        return response


def finish(status: int, *, counted: bool = True) -> None:
    """Log this thread's request, which is answered with ``status``, and count it."""
    if counted:
        metrics.count(record, status)
    access_log.write(record, status)
    # With it goes all that it holds on to: the body, for one.
    record.exception = None
