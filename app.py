"""The application factory."""

import os

from flask import Flask

from bulk_metadata import commands
from bulk_metadata.api import docs
from bulk_metadata.api.response import JsonProvider, register_error_handlers
from bulk_metadata.api.routes import blueprint
from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database
from bulk_metadata.server import health
from bulk_metadata.telemetry.instrumentation import instrument


def create_app(config: Config | None = None) -> Flask:
    """Return the application, without connecting to the database.

    ``config`` is read from the environment by default. Raises ConfigError.
    """
    config = config or Config.from_env(os.environ)
    app = Flask(__name__, static_folder=None)
    # A path with a doubled slash gets a 404 instead of an HTML redirect.
    app.url_map.merge_slashes = False
    app.json = JsonProvider(app)
    app.extensions["config"] = config
    app.extensions["database"] = Database(config)
    app.extensions["readiness"] = health.Readiness(app.extensions["database"])
    app.register_blueprint(blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(commands.blueprint)
    instrument(app)
    register_error_handlers(app)
    return app
