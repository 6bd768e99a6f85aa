"""Step 5: the answer, and how an answer becomes JSON."""

from collections.abc import Iterable
from typing import Any

import msgspec
from flask import Response
from flask.json.provider import DefaultJSONProvider

# For browsers and caches between, of every answer.
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class JsonProvider(DefaultJSONProvider):
    """Flask's JSON, written by msgspec: members keep their order, and 1,000 results
    take a tenth of the time."""

    def response(self, *args: Any, **kwargs: Any) -> Response:
        """Return the answer, not to be stored or taken for anything else."""
        body = msgspec.json.encode(self._prepare_response_obj(args, kwargs)) + b"\n"
        return Response(body, mimetype=self.mimetype, headers=HEADERS)


class Result(msgspec.Struct, rename="camel", gc=False):
    """What became of one device. A structure is half the work of a dictionary, and one
    of strings alone nothing for the garbage collector."""

    identifier: str
    device_id: str
    status: str


def answer(
    identifiers: Iterable[str], device_ids: dict[str, str], *, is_dry_run: bool = False
) -> dict[str, Any]:
    """Return the response: one result for each identifier, in the order given. That of
    a dry run says so before anything else that could be taken for done."""
    results = [
        Result(identifier, device_ids[identifier], "updated")
        if identifier in device_ids
        else Result(identifier, "", "not_found")
        for identifier in identifiers
    ]
    return {
        "success": True,
        **({"dryRun": True} if is_dry_run else {}),
        "updated": len(device_ids),
        "notFound": len(results) - len(device_ids),
        "results": results,
    }
