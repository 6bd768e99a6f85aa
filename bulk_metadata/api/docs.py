"""The page to read about the endpoint and to try it, served by the service itself."""

from importlib.resources import files
from pathlib import Path

from flask import Blueprint, Response, abort, send_file

blueprint = Blueprint("docs", __name__)

HERE = Path(__file__).parent
SWAGGER_UI = Path(str(files("flask_swagger_ui"))) / "dist"

PAGE = HERE / "static" / "index.html"
DESCRIPTION = HERE / "openapi.json"
# What the page is made of, by name; no other file can be asked for.
PARTS = {
    path.name: path
    for path in (
        HERE / "static" / "page.css",
        HERE / "static" / "page.js",
        SWAGGER_UI / "swagger-ui.css",
        SWAGGER_UI / "swagger-ui-bundle.js",
        SWAGGER_UI / "favicon-32x32.png",
    )
}

# Whatever a description or an answer may hold: only what is served here is run, shown
# or asked. The images are those in Swagger UI's style sheet.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


@blueprint.get("/openapi.json", provide_automatic_options=False)
def show_description() -> Response:
    """Return the API's description, in OpenAPI 3.1."""
    return _send(DESCRIPTION)


@blueprint.get("/docs", provide_automatic_options=False)
def show_page() -> Response:
    """Return the page."""
    return _send(PAGE)


@blueprint.get("/docs/<name>", provide_automatic_options=False)
def show_part(name: str) -> Response:
    """Return a part of the page."""
    if name not in PARTS:
        abort(404)
    return _send(PARTS[name])


def _send(path: Path) -> Response:
    # Asked for again each time, and mostly answered with 304: a new release shows.
    response = send_file(path, max_age=0)
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
