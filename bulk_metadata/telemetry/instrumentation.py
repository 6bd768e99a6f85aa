"""Request instrumentation: the X-Request-ID header, the access log and the metrics."""

from collections.abc import Callable
from typing import Any

from flask import Flask, Response, request

from bulk_metadata.telemetry import access_log, metrics
from bulk_metadata.telemetry.context import context


class InstrumentedFlask(Flask):
    """A Flask application that logs and counts each request.

    For speed, functions that are registered with before_request, after_request or
    after_this_request are not called, sessions are not saved, and async views are not
    supported.
    """

    # If false, only failures are logged, and no request is counted.
    is_api = True

    def preprocess_request(self) -> None:
        """Begin a request."""
        context.begin(request.method, request.path, request.headers.get("X-Request-ID"))

    def process_response(self, response: Response) -> Response:
        """Log and count the request. Add its ID to the response."""
        response.headers["X-Request-ID"] = context.request_id
        if self.is_api or context.exception:
            # Health checks and the documentation, which are blueprints, do not count.
            is_counted = self.is_api and request.blueprint is None
            finish(response.status_code, counted=is_counted)
        return response

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``func``, which is never async."""
        return func


def finish(status: int, *, counted: bool = True) -> None:
    """Log and count the current request, which gets a response with ``status``."""
    if counted:
        metrics.count(context, status)
    access_log.write(context, status)
    # The traceback keeps the local variables alive, including the body.
    context.exception = None
