"""How gunicorn serves the application. A wrong setting stops it before it forks."""

import gc
import os
import sys
from typing import Any

from bulk_metadata.config import Config, ConfigError
from bulk_metadata.db.connection import parse_url
from bulk_metadata.telemetry.metrics_folder import make_metrics_folder

try:
    settings = Config.from_env(os.environ)
    parse_url(settings.database_url)
except ConfigError as error:
    sys.exit(str(error))

wsgi_app = "wsgi:app"
bind = settings.bind
workers = settings.workers
threads = settings.threads
# gunicorn's threaded worker, answering in JSON whatever never reaches the application.
worker_class = "bulk_metadata.server.worker.Worker"
# Fleet tools send call after call; a connection they keep saves each a handshake.
keepalive = 30
# On SIGTERM and SIGHUP every request that has begun may come to its end.
graceful_timeout = settings.request_timeout + 10
# A key of 8 KB is a wrong key and is told so, not a broken request.
limit_request_field_size = 16_384
# gunicorn would take these headers for its own settings, from clients on this machine.
forwarder_headers = ""
# Nothing talks to a running gunicorn but signals.
control_socket_disable = True


# Before the worker class is loaded, and prometheus_client with it.
make_metrics_folder()


def on_starting(server: Any) -> None:
    """Open the operations port, once: a reload keeps it."""
    from bulk_metadata.server.metrics_server import OperationsPort

    try:
        server.operations_port = OperationsPort(settings)
    except OSError as error:
        sys.exit(
            f"Cannot listen at {settings.metrics_bind}: {error.strerror}. Stop the "
            "program that does, or choose another: METRICS_BIND=127.0.0.1:9465"
        )
    server.log.info("Metrics at %s", server.operations_port.url)


def pre_fork(server: Any, worker: Any) -> None:
    """Hand the operations port to the worker."""
    worker.operations_port = server.operations_port


def post_worker_init(worker: Any) -> None:
    """Serve the operations port, and spare what is loaded by now from garbage
    collection: it is there to stay."""
    worker.operations_port.serve(worker.wsgi)
    gc.collect()
    gc.freeze()


def child_exit(server: Any, worker: Any) -> None:
    """Forget what was only true while the worker lived."""
    from bulk_metadata.telemetry.multiprocess import forget_worker

    forget_worker(worker.pid, server.WORKERS)
