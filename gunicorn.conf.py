"""How gunicorn serves the application. A wrong setting stops it before it forks."""

import gc
import os
import sys

from bulk_metadata.config import Config, ConfigError

try:
    settings = Config.from_env(os.environ)
except ConfigError as error:
    sys.exit(str(error))

wsgi_app = "wsgi:app"
bind = settings.bind
workers = settings.workers
threads = settings.threads
# gunicorn's threaded worker, answering in JSON whatever never reaches the application.
worker_class = "bulk_metadata.worker.Worker"
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


def post_worker_init(worker: object) -> None:
    """Spare what is loaded by now from garbage collection: it is there to stay."""
    gc.collect()
    gc.freeze()
