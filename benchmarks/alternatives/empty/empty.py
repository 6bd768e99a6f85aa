"""An empty view: the lower bound for an endpoint in Flask and gunicorn."""

from flask import Flask, request
from flask.typing import ResponseReturnValue

app = Flask(__name__)


@app.post("/api/ext-v1/device/bulk-metadata")
def read_body() -> ResponseReturnValue:
    """Read the request body, and return a constant response."""
    request.get_data()
    return {"updated": 1}
