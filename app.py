"""The application factory."""

import os

from flask import Flask, Request
from werkzeug.exceptions import NotFound
from werkzeug.routing import MapAdapter

from bulk_metadata import commands
from bulk_metadata.api import docs
from bulk_metadata.api.response import JsonProvider, register_error_handlers
from bulk_metadata.api.routes import Endpoint
from bulk_metadata.config import Config
from bulk_metadata.core.limits import ENDPOINT
from bulk_metadata.db.pool import Database
from bulk_metadata.server import health
from bulk_metadata.telemetry.instrumentation import InstrumentedFlask


class Application(InstrumentedFlask):
    """A Flask application that finds a route by path and method only.

    The host of a request has no effect, and a path like //api gets a 404. Werkzeug
    would remove the first slash.
    """

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return the adapter that finds the route. Raises NotFound."""
        if request is None:
            return None
        if request.environ["PATH_INFO"].startswith("//"):
            raise NotFound
        return self.url_map.bind(
            "", path_info=request.path, default_method=request.method
        )


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
    database = Database(config)
    app.extensions["database"] = database
    app.extensions["readiness"] = health.Readiness(database)
    app.add_url_rule(
        ENDPOINT,
        view_func=Endpoint(config, database).replace_metadata,
        methods=["POST"],
        provide_automatic_options=False,
    )
    app.register_blueprint(health.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(commands.blueprint)
    register_error_handlers(app)
    return app
