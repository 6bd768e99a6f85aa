"""What becomes of an error: always ``{"error": sentence}``, and nothing else."""

from flask import Flask
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from bulk_metadata.telemetry.context import record


class ApiError(Exception):
    """A request that is answered with ``status`` and ``message``, word for word."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def register_error_handlers(app: Flask) -> None:
    """Make ``app`` answer every error with JSON, and record those that are its own."""

    @app.errorhandler(ApiError)
    def refuse(error: ApiError) -> ResponseReturnValue:
        return {"error": error.message}, error.status

    @app.errorhandler(HTTPException)
    def refuse_route(error: HTTPException) -> ResponseReturnValue:
        allow = [header for header in error.get_headers() if header[0] == "Allow"]
        return {"error": error.name}, error.code or 500, allow

    @app.errorhandler(Exception)
    def fail(error: Exception) -> ResponseReturnValue:
        record.exception = error
        return {"error": "Internal server error"}, 500
