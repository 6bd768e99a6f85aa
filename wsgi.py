"""The WSGI entry point for gunicorn and ``flask``, configured by the environment."""

import logging
import sys

from app import create_app
from bulk_metadata.config import ConfigError
from bulk_metadata.telemetry import access_log

# The format of gunicorn, because both write to standard error.
logging.basicConfig(
    format="[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s",
    datefmt="%Y-%m-%d %H:%M:%S %z",
)
access_log.set_up()

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
