"""What every answer leaves behind: its X-Request-ID, a line in the log, the metrics."""

from flask import Flask, Response, request

from bulk_metadata import metrics, request_log
from bulk_metadata.record import record

# The API's own blueprint, and what is no endpoint at all: health checks are not calls.
COUNTED = ("bulk_metadata", None)


def register_observers(app: Flask) -> None:
    """Make ``app`` observe every request from its beginning to its answer."""

    @app.before_request
    def begin() -> None:
        record.begin(request.method, request.path, request.headers.get("X-Request-ID"))

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-ID"] = record.request_id
        if request.blueprint in COUNTED:
            metrics.count(record, response.status_code)
        request_log.write(record, response.status_code)
        return response
