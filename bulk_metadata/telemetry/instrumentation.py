"""Request instrumentation: the X-Request-ID header, the access log and the metrics."""

from flask import Flask, Response, request

from bulk_metadata.telemetry import access_log, metrics
from bulk_metadata.telemetry.context import context

# Blueprints whose requests are counted: the API, and None for unknown paths. Health
# checks and the documentation are not.
COUNTED = ("bulk_metadata", None)


def instrument(app: Flask, *, is_api: bool = True) -> None:
    """Log and count each request of ``app``.

    If ``is_api`` is false, only failures are logged, and no request is counted.
    """

    @app.before_request
    def begin() -> None:
        context.begin(request.method, request.path, request.headers.get("X-Request-ID"))

    @app.after_request
    def end(response: Response) -> Response:
        response.headers["X-Request-ID"] = context.request_id
        if is_api or context.exception:
            is_counted = is_api and request.blueprint in COUNTED
            finish(response.status_code, counted=is_counted)
        return response


def finish(status: int, *, counted: bool = True) -> None:
    """Log and count the current request, which gets a response with ``status``."""
    if counted:
        metrics.count(context, status)
    access_log.write(context, status)
    # The traceback keeps the local variables alive, including the body.
    context.exception = None
