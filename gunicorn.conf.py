"""The gunicorn settings. If a setting of the service is invalid, gunicorn exits."""

import gc
import os
import signal
import sys
from functools import partial
from typing import Any

from bulk_metadata.config import Config, ConfigError
from bulk_metadata.db.url import parse_url
from bulk_metadata.server.metrics_server import MetricsPort
from bulk_metadata.telemetry import multiprocess

try:
    settings = Config.from_env(os.environ)
    parse_url(settings.database_url)
except ConfigError as error:
    sys.exit(str(error))

wsgi_app = "wsgi:app"
bind = settings.bind
workers = settings.workers
threads = settings.threads
worker_class = "bulk_metadata.server.worker.Worker"
# Per worker. A common limit is 1,024 file descriptors, and PostgreSQL and the metrics
# port need some.
worker_connections = 900
# Seconds. A client that sends many requests on one connection saves handshakes.
keepalive = 30
# Seconds. On SIGTERM and SIGHUP, requests in flight complete: they take REQUEST_TIMEOUT
# for the body, and up to two attempts for each of two statements.
graceful_timeout = settings.request_timeout + 2 * (
    settings.pool_timeout + settings.lock_timeout + settings.answer_timeout
)
# Bytes. An API key of 8 KB gets a 401, like any other invalid key.
limit_request_field_size = 16_384
# No header of a proxy has an effect. To trust every address is faster than to compare
# the address of each client. It would also allow HTTP/2 without TLS, which is off.
forwarded_allow_ips = "*"
forwarder_headers = ""
secure_scheme_headers: dict[str, str] = {}
# Signals are the only interface to a running gunicorn.
control_socket_disable = True

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def on_starting(server: Any) -> None:
    """Open the metrics port. It stays open during a reload."""
    # The main thread of a worker reads request heads as plain text.
    if server.cfg.is_ssl:
        sys.exit("TLS is not supported. Use a proxy, as in deploy/nginx.conf.")
    try:
        server.metrics_port = MetricsPort(settings)
    except OSError as error:
        sys.exit(
            f"Cannot listen on {settings.metrics_bind}: {error.strerror}. Stop the "
            "program that uses the port, or set another one, for example "
            "METRICS_BIND=127.0.0.1:9465"
        )
    server.log.info("Metrics at %s", server.metrics_port.url)
    # A new worker would lose a signal that arrives before it handles signals, and delay
    # the shutdown by graceful_timeout.
    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, STOP_SIGNALS),
        after_in_parent=partial(
            signal.pthread_sigmask, signal.SIG_UNBLOCK, STOP_SIGNALS
        ),
    )


def pre_fork(server: Any, worker: Any) -> None:
    """Assign a cell of the shared metrics to the worker."""
    worker.cell = multiprocess.free_cell(
        [other.cell for other in server.WORKERS.values()]
    )


def post_fork(server: Any, worker: Any) -> None:
    """Let the worker count in its cell."""
    multiprocess.use_cell(worker.cell)
    worker.metrics_port = server.metrics_port


def post_worker_init(worker: Any) -> None:
    """Serve the metrics port. Exclude the loaded modules from garbage collection."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    worker.metrics_port.serve(worker.wsgi)
    gc.collect()
    gc.freeze()


def child_exit(server: Any, worker: Any) -> None:
    """Reset the gauges of a worker that has exited."""
    multiprocess.clear_gauges(worker.cell)
