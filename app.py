"""The application factory."""

import os

from flask import Flask, Request
from werkzeug.exceptions import NotFound
from werkzeug.routing import MapAdapter

from bulk_metadata import commands
from bulk_metadata.api import docs
from bulk_metadata.api.response import JsonProvider, register_error_handlers
from bulk_metadata.api.routes import blueprint
from bulk_metadata.config import Config
from bulk_metadata.db.pool import Database
from bulk_metadata.server import health
from bulk_metadata.telemetry.instrumentation import instrument


class Application(Flask):
    """A Flask application that responds to a path like //api with 404. Werkzeug would
    remove the first slash."""

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the adapter that finds the route. Raises NotFound."""
        if request is not None and request.environ["PATH_INFO"].startswith("//"):
            raise NotFound
        return super().create_url_adapter(request)


def create_app(config: Config | None = None) -> Flask:
    """Return the application, without connecting to the database.

    ``config`` is read from the environment by default. Raises ConfigError.
    """
    config = config or Config.from_env(os.environ)
    app = Application(__name__, static_folder=None)
    # A path with a doubled slash gets a 404 instead of an HTML redirect.
    app.url_map.merge_slashes = False
    app.json = JsonProvider(app)
    app.extensions["config"] = config
    app.extensions["database"] = Database(config)
    # Valid API keys by digest, so that not every request needs a lookup.
    app.extensions["api_keys"] = {}
    app.extensions["readiness"] = health.Readiness(app.extensions["database"])
    app.register_blueprint(blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(commands.blueprint)
    instrument(app)
    register_error_handlers(app)
    return app
