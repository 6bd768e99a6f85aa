"""What gunicorn and ``flask`` load: the application, set up by the environment."""

import sys

from app import create_app
from bulk_metadata.config import ConfigError

try:
    app = create_app()
except ConfigError as error:
    sys.exit(str(error))
