"""The API documentation: /openapi.json, and Swagger UI at /docs."""

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, abort, send_file

blueprint = Blueprint("docs", __name__)

HERE = Path(__file__).parent
SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"

PAGE = HERE / "static" / "index.html"
DESCRIPTION = HERE / "openapi.json"
# The only files that are served, by name.
ASSETS = {
    path.name: path
    for path in (
        HERE / "static" / "page.css",
        HERE / "static" / "page.js",
        SWAGGER_UI / "swagger-ui.css",
        SWAGGER_UI / "swagger-ui-bundle.js",
        SWAGGER_UI / "favicon-32x32.png",
    )
}

# The page loads and contacts only this service, even if a response contains HTML. The
# images are data URLs in the style sheet of Swagger UI.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@blueprint.get("/openapi.json", provide_automatic_options=False)
def show_description() -> Response:
    """Return the OpenAPI 3.1 description of the API."""
    return _send(DESCRIPTION)


@blueprint.get("/docs", provide_automatic_options=False)
def show_page() -> Response:
    """Return the HTML page."""
    return _send(PAGE)


@blueprint.get("/docs/<name>", provide_automatic_options=False)
def show_asset(name: str) -> Response:
    """Return a script, style sheet or image of the page."""
    if name not in ASSETS:
        abort(404)
    return _send(ASSETS[name])


def _send(path: Path) -> Response:
    # Browsers revalidate the file, mostly with a 304, so that they notice a new
    # release.
    response = send_file(path, max_age=0)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
