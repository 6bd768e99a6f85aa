"""The error messages of the HTTP API, in the order of its checks.

Clients compare them byte by byte, so they never change. The templates are completed
with ``str.format``. Errors that are not caused by the request have one message for all:
their detail is logged, never sent.
"""


class ApiError(Exception):
    """An error response with ``status`` and the JSON body ``{"error": message}``."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


# 400 to 501: the request is not valid HTTP. gunicorn rejects it before the application.
INVALID_HTTP = "Invalid HTTP request"
LONG_REQUEST_LINE = "Request line too long"  # 414
LARGE_HEADERS = "Headers too large"  # 431
UNSUPPORTED_EXPECTATION = "Unsupported expectation"  # 417
UNSUPPORTED_TRANSFER_CODING = "Unsupported transfer coding"  # 501

# 404 and 405
NOT_FOUND = "Not Found"
METHOD_NOT_ALLOWED = "Method Not Allowed"

# 401
INVALID_API_KEY = "Invalid or missing API key"

# 400: the query of the URL
UNKNOWN_PARAMETER = 'Unknown parameter "{name}": it is spelt dryRun'
REPEATED_DRY_RUN = "dryRun must be given once"
INVALID_DRY_RUN = 'dryRun must be true or false, not "{value}"'

# 413
LARGE_BODY = "Request body too large. Maximum {limit} bytes"

# 400: the body
INVALID_JSON = "Invalid JSON payload"
DEVICES_REQUIRED = (
    "devices is required and must be an object mapping identifiers to metadata"
)
NO_DEVICES = "devices must contain at least one entry"
TOO_MANY_DEVICES = "Too many devices. Maximum 1000 per request"
INVALID_METADATA = 'Invalid metadata for device "{identifier}": {reason}'
# The reasons:
NOT_AN_OBJECT = "must be a JSON object"
NUL_CHARACTER = "must not contain the NUL character"
NUMBER_OUT_OF_RANGE = "number out of range"

# 500
INTERNAL_ERROR = "Internal server error"
