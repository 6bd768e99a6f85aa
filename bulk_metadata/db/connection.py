"""How a connection to PostgreSQL is made, and what is said of an error on it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import parse_dsn

from bulk_metadata.config import Config

# The two statements of a request look rows up by key and never do better otherwise.
# Left to itself the planner scans the whole fleet from some 100,000 devices on, and
# locks rows in the order of its scan: slow, and open to deadlocks. The costs of 0 keep
# it from reading a whole organization instead, for every row of VALUES anew, which it
# holds to be cheap where it takes the organization for a small one.
PLAN = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "random_page_cost": "0",
    "cpu_operator_cost": "0",
}


def connect_service(config: Config) -> Connection:
    """Return a connection as the service uses it: autocommitting, its plan pinned, its
    waits limited. Raises psycopg2.OperationalError if there is none to be had."""
    settings = PLAN | {
        "lock_timeout": f"{config.lock_timeout}s",
        "statement_timeout": f"{config.statement_timeout}s",
    }
    connection = connect(
        config.database_url, config.connect_timeout, "bulk-metadata", settings
    )
    connection.autocommit = True
    return connection


def connect(
    url: str,
    timeout: int,
    application_name: str,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Connection:
    """Return a connection to the database at ``url``; what the URL itself says wins.

    ``timeout`` is in seconds. ``settings`` are PostgreSQL's run-time settings, added to
    those in the URL's ``options``. Raises psycopg2.OperationalError.
    """
    parameters: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": timeout,
        # What a dead network swallows is given up as fast (in milliseconds), and one
        # that forgets quiet connections is kept awake.
        "tcp_user_timeout": 1000 * timeout,
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    } | parse_dsn(url)
    # The one thing that is not the URL's to say: all text is UTF-8.
    parameters["client_encoding"] = "UTF8"
    options = [f"-c {name}={value}" for name, value in settings.items()]
    parameters["options"] = " ".join([*options, parameters.get("options", "")])
    connection: Connection = psycopg2.connect(**parameters)
    return connection


def reason(error: psycopg2.Error) -> str:
    """Return in one line what PostgreSQL or libpq says is wrong, without the excerpt of
    the statement that psycopg2 adds, which may hold metadata."""
    return " ".join((error.diag.message_primary or str(error)).split())
