"""A parser of DATABASE_URL that reveals no password in an error message."""

import re

import psycopg2
from psycopg2.extensions import parse_dsn

from bulk_metadata.config import ConfigError

# A URL that libpq splits as intended. With an unescaped @, : or / in the password,
# libpq interprets a part of the password as the host, the port or the database, and
# quotes it in error messages.
SAFE_URL = re.compile(
    r"postgres(?:ql)?://(?:[^@/:]*(?::[^@/:]*)?@)?[^@/?]*(?:/[^@?]*)?(?:\?.*)?", re.S
)


def parse_url(url: str) -> dict[str, str]:
    """Return the connection parameters in DATABASE_URL.

    Raises ConfigError, whose message contains no part of the URL.
    """
    if re.match("postgres(ql)?://", url) and not SAFE_URL.fullmatch(url):
        raise ConfigError(
            "DATABASE_URL contains an unescaped @, : or /: percent-encode the "
            "password. Write @ as %40, : as %3A and / as %2F."
        )
    try:
        parameters: dict[str, str] = parse_dsn(url)
    except (psycopg2.ProgrammingError, UnicodeError):
        parameters = {"port": "invalid"}
    # Without the @, libpq interprets the password as the port.
    if re.search("[^0-9,]", parameters.get("port", "")):
        raise ConfigError(
            "DATABASE_URL is not a PostgreSQL connection URL. "
            "Example: postgresql://user:password@host:5432/database"
        )
    return parameters
