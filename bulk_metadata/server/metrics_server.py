"""The operations port: metrics and health, from a thread of its own in each worker, so
that it answers while all other threads wait.

gunicorn's master opens it before it forks: a port that is taken stops the start, and
whichever worker is asked answers for all of them.
"""

import platform
import socket
import threading

from flask import Flask, Response
from prometheus_client import CONTENT_TYPE_LATEST
from werkzeug.serving import WSGIRequestHandler, make_server

from bulk_metadata import __version__
from bulk_metadata.api.response import JsonProvider, register_error_handlers
from bulk_metadata.config import Config, address
from bulk_metadata.server import health
from bulk_metadata.telemetry import metrics, multiprocess
from bulk_metadata.telemetry.instrumentation import instrument


class Handler(WSGIRequestHandler):
    """A handler without a log, that does not wait for silent clients."""

    timeout = 5

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: these requests come every few seconds, for ever."""


class OperationsPort:
    """The port, to be opened by the master and served by each worker."""

    def __init__(self, config: Config) -> None:
        """Open it. Raises OSError if that cannot be."""
        host, port = address(config.metrics_bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family)
        self._address = host, self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def serve(self, app: Flask) -> None:
        """Serve it from now on, for the worker of ``app``."""
        config: Config = app.extensions["config"]
        metrics.POOL_SIZE.set(config.pool_size)
        metrics.BUILD_INFO.labels(__version__, platform.python_version()).set(1)
        server = make_server(
            *self._address,
            create_operations_app(app),
            threaded=True,
            request_handler=Handler,
            fd=self._socket.fileno(),
        )
        threading.Thread(
            target=server.serve_forever, name="operations", daemon=True
        ).start()


def create_operations_app(app: Flask) -> Flask:
    """Return what the port serves, with the readiness of ``app``."""
    operations = Flask(__name__, static_folder=None)
    operations.json = JsonProvider(operations)
    operations.extensions["readiness"] = app.extensions["readiness"]
    operations.register_blueprint(health.blueprint)
    operations.add_url_rule("/metrics", view_func=show_metrics)
    register_error_handlers(operations)
    instrument(operations, is_api=False)
    return operations


def show_metrics() -> Response:
    """Return the metrics of all workers."""
    return Response(multiprocess.collect(), content_type=CONTENT_TYPE_LATEST)
