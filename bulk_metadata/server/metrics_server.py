"""The metrics port: metrics and health checks, served by a separate thread in each
worker, so that it responds while all other threads are busy.

The gunicorn master opens the port before it forks. If the port is in use, gunicorn does
not start. Any worker responds for all of them.
"""

import socket
import threading

from flask import Flask, Response
from werkzeug.serving import WSGIRequestHandler, make_server

from bulk_metadata.api.response import JsonProvider, register_error_handlers
from bulk_metadata.config import Config, address
from bulk_metadata.server import health
from bulk_metadata.telemetry import metrics
from bulk_metadata.telemetry.instrumentation import InstrumentedFlask


class Handler(WSGIRequestHandler):
    """A request handler with a timeout for silent clients and without an access log."""

    timeout = 5

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: scrapes and health checks arrive every few seconds."""


class MetricsPort:
    """The port. The master opens it, each worker serves it."""

    def __init__(self, config: Config) -> None:
        """Open the port. Raises OSError if it is not available."""
        host, port = address(config.metrics_bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)
        self._address = host, self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """The URL of the metrics."""
        host, port = self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def serve(self, app: Flask) -> None:
        """Start the thread that serves the port for the worker of ``app``."""
        config: Config = app.extensions["config"]
        metrics.POOL_SIZE.set(config.pool_size)
        metrics.BUILD_INFO.set(1)
        server = make_server(
            *self._address,
            create_metrics_app(app),
            threaded=True,
            request_handler=Handler,
            fd=self._socket.fileno(),
        )
        # A worker must not wait for a connection that another one has accepted.
        server.socket.setblocking(False)
        threading.Thread(
            target=server.serve_forever, name="metrics port", daemon=True
        ).start()


def create_metrics_app(app: Flask) -> Flask:
    """Return the application of the port, which checks the readiness of ``app``."""
    metrics_app = InstrumentedFlask(__name__, static_folder=None)
    metrics_app.is_api = False
    metrics_app.json = JsonProvider(metrics_app)
    metrics_app.extensions["readiness"] = app.extensions["readiness"]
    metrics_app.register_blueprint(health.blueprint)
    metrics_app.add_url_rule("/metrics", view_func=show_metrics)
    register_error_handlers(metrics_app)
    return metrics_app


def show_metrics() -> Response:
    """Return the metrics of all workers in the text format of Prometheus."""
    text, content_type = metrics.exposition()
    return Response(text, content_type=content_type)
