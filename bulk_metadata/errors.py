"""What becomes of an error: always ``{"error": sentence}``, and nothing else."""

import logging

from flask import Flask, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from bulk_metadata.api_error import ApiError
from bulk_metadata.body import discard_body

logger = logging.getLogger(__name__)


def register_error_handlers(app: Flask) -> None:
    """Make ``app`` answer every error with JSON, and log those that are its own."""

    @app.errorhandler(ApiError)
    def refuse(error: ApiError) -> ResponseReturnValue:
        return answer(error.status, error.message)

    @app.errorhandler(HTTPException)
    def refuse_route(error: HTTPException) -> ResponseReturnValue:
        allow = [header for header in error.get_headers() if header[0] == "Allow"]
        return *answer(error.code or 500, error.name), allow

    @app.errorhandler(Exception)
    def fail(error: Exception) -> ResponseReturnValue:
        logger.error("The request failed", exc_info=error)
        return answer(500, "Internal server error")

    def answer(status: int, sentence: str) -> tuple[dict[str, str], int]:
        discard_body(request.stream, app.extensions["config"].max_body_bytes)
        return {"error": sentence}, status
