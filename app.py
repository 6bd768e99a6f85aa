"""The application: settings, database, endpoint and error answers put together."""

import os

from flask import Flask

from bulk_metadata import commands
from bulk_metadata.api import docs
from bulk_metadata.api.response import JsonProvider
from bulk_metadata.api.routes import blueprint
from bulk_metadata.config import Config
from bulk_metadata.core.errors import register_error_handlers
from bulk_metadata.db.pool import Database
from bulk_metadata.server import health
from bulk_metadata.telemetry.instrumentation import register_observers


def create_app(config: Config | None = None) -> Flask:
    """Return the application; no connection is opened before the first request.

    ``config`` is read from the environment unless given. Raises ConfigError.
    """
    config = config or Config.from_env(os.environ)
    app = Flask(__name__, static_folder=None)
    # A doubled slash within the path is answered with 404, not with a redirect in HTML.
    app.url_map.merge_slashes = False
    app.json = JsonProvider(app)
    app.extensions["config"] = config
    app.extensions["database"] = Database(config)
    app.extensions["readiness"] = health.Readiness(app.extensions["database"])
    app.register_blueprint(blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(commands.blueprint)
    register_observers(app)
    register_error_handlers(app)
    return app
