"""The endpoint: one request, from the API key to the response."""

from functools import partial
from socket import socket

from flask import request
from flask.typing import ResponseReturnValue

from bulk_metadata.api.request import (
    is_dry_run,
    parse_body,
    read_body,
    require_connected,
)
from bulk_metadata.api.response import build_response
from bulk_metadata.api.validation import validate
from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest, is_well_formed
from bulk_metadata.core.errors import INVALID_API_KEY, ApiError
from bulk_metadata.db.pool import Database
from bulk_metadata.db.prepared import Call
from bulk_metadata.db.queries import (
    ApiKey,
    dry_run_update,
    guard_update,
    select_api_key,
    update_metadata,
)
from bulk_metadata.telemetry.context import context

# Seconds after which a valid API key is looked up again. Until then, only the message
# with the update checks the key, which saves a round trip.
MAX_KEY_AGE = 1


class Endpoint:
    """The endpoint, with the state that its requests share."""

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        # Valid API keys by digest, so that not every request needs a lookup.
        self._api_keys: dict[bytes, ApiKey] = {}

    def replace_metadata(self) -> ResponseReturnValue:
        """Replace the metadata of the devices in the body by one statement. A dry run
        is rolled back."""
        key = request.headers.get("x-api-key", "")
        api_key = self._authenticate(key, max_age=MAX_KEY_AGE)
        context.organization_id, context.key_id = api_key.organization_id, api_key.id
        try:
            return self._replace(api_key)
        except ApiError:
            # If the API key was revoked in the meantime, a 401 has precedence.
            self._authenticate(key)
            raise

    def _replace(self, api_key: ApiKey) -> ResponseReturnValue:
        """Respond to a request with this API key. Raises ApiError."""
        context.is_dry_run = is_dry_run(request.query_string)
        body = read_body(
            request.stream, request.content_length, self._config.max_body_bytes
        )
        context.body_bytes = len(body)
        documents = validate(parse_body(body))
        context.devices = len(documents)
        device_ids = self._database.run(
            dry_run_update if context.is_dry_run else update_metadata,
            api_key.organization_id,
            documents,
            context.request_id,
            api_key.id,
            partial(self._guard, api_key, request.environ.get("gunicorn.socket")),
        )
        context.updated = len(device_ids)
        return build_response(documents, device_ids, is_dry_run=context.is_dry_run)

    def _guard(self, api_key: ApiKey, client: socket | None) -> list[Call]:
        """Return the statement that prevents a late update, and an update with a
        revoked API key. It is called before each attempt.

        An attempt must start early enough to end before ANSWER_TIMEOUT, when the client
        gets its 500. Raises ClientDisconnectedError.
        """
        require_connected(client)
        timeout = self._config.statement_timeout
        start_within = self._config.answer_timeout - timeout
        return [guard_update(api_key, start_within, timeout)]

    def _authenticate(self, key: str, max_age: float = 0) -> ApiKey:
        """Return the organization and ID of an API key that was valid ``max_age``
        seconds ago or later.

        Raises ApiError 401, with the same message for every reason.
        """
        key_hash = digest(key)
        api_key = self._api_keys.get(key_hash)
        if api_key is None and not is_well_formed(key):
            raise ApiError(401, INVALID_API_KEY)
        if api_key is None or api_key.clock.age > max_age:
            api_key = self._database.run(select_api_key, key_hash)
            if api_key is None:
                self._api_keys.pop(key_hash, None)
                raise ApiError(401, INVALID_API_KEY)
            self._api_keys[key_hash] = api_key
        return api_key
