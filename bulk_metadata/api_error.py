"""The one error that a step raises for the caller to read."""


class ApiError(Exception):
    """A request that is answered with ``status`` and ``message``, word for word."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
