"""Whether a call is a dry run, which does all of its work and leaves nothing behind."""

import re
from urllib.parse import parse_qsl

from bulk_metadata.core.errors import ApiError

NO_LETTER = re.compile(r"[^a-z]")


def is_dry_run(query_string: bytes) -> bool:
    """Tell whether the URL's query, undecoded, asks for a dry run.

    Raises ApiError 400 if it is not clear: what was meant as a dry run must not write,
    so a parameter that was to be ``dryRun`` is refused, too. Others are passed over.
    """
    # Whatever the bytes: Flask's request.args fails where they are not UTF-8.
    query = query_string.decode(errors="replace")
    parameters = parse_qsl(query, keep_blank_values=True)
    for name, _ in parameters:
        # Also "amp;dryRun", of a URL that was copied out of HTML.
        if name != "dryRun" and "dryrun" in NO_LETTER.sub("", name.lower()):
            raise ApiError(400, f'Unknown parameter "{name}": it is spelt dryRun')
    match [value for name, value in parameters if name == "dryRun"]:
        case [] | ["false"]:
            return False
        case ["true"]:
            return True
        case [value]:
            raise ApiError(400, f'dryRun must be true or false, not "{value}"')
    raise ApiError(400, "dryRun must be given once")
