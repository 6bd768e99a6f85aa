"""The settings: read once from the environment, checked before anything starts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

import psycopg2
from psycopg2.extensions import parse_dsn

from bulk_metadata.core.limits import DEFAULT_MAX_BODY_BYTES

# The largest number that a setting may have.
MOST = {
    # Beyond 16 MiB the memory that PostgreSQL needs to parse many small values, and the
    # text of many numbers like 1e308, come near the 1 GiB that it gives a value.
    "max_body_bytes": 16 * 1024 * 1024,
}
# A day in seconds, and more of anything else than makes sense.
MOST_OTHERWISE = 86_400

# A name, an IPv4 address or, in brackets, an IPv6 address; and a port.
BIND = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", re.ASCII)
MAX_PORT = 65_535


class ConfigError(Exception):
    """A setting is missing or wrong; the message names it and says what to do."""


@dataclass(frozen=True)
class Config:
    """Every setting, named as in the environment but in lower case.

    Time limits are whole seconds. Each wait is shorter than the one around it, so that
    the one who knows most gives up first: lock < statement < answer < request. With the
    defaults a request is answered within 15 seconds under any one fault.
    """

    database_url: str
    bind: str = "127.0.0.1:8000"
    metrics_bind: str = "127.0.0.1:9464"
    workers: int = 2
    threads: int = 4
    # One connection a thread: a smaller pool makes requests wait for one another.
    pool_size: int = 4
    pool_timeout: int = 2
    # The least that libpq knows.
    connect_timeout: int = 2
    lock_timeout: int = 4
    statement_timeout: int = 6
    answer_timeout: int = 8
    # Long enough for the largest body over a slow line.
    request_timeout: int = 30
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Return the settings that ``environ`` holds.

        Raises ConfigError for the first one that is missing or wrong.
        """
        sent = {
            field.name: environ[field.name.upper()]
            for field in fields(cls)
            if environ.get(field.name.upper())
        }
        if "threads" in sent:
            sent.setdefault("pool_size", sent["threads"])
        numbers = {
            name: _whole_number(name, text)
            for name, text in sent.items()
            if name not in ("database_url", "bind", "metrics_bind")
        }
        config = cls(
            database_url=_database_url(sent.get("database_url", "")),
            bind=_bind("bind", sent.get("bind", cls.bind)),
            metrics_bind=_bind(
                "metrics_bind", sent.get("metrics_bind", cls.metrics_bind)
            ),
            **numbers,
        )
        limits = [
            config.lock_timeout,
            config.statement_timeout,
            config.answer_timeout,
            config.request_timeout,
        ]
        if limits != sorted(set(limits)):
            raise ConfigError(
                "LOCK_TIMEOUT must be less than STATEMENT_TIMEOUT, that less than "
                "ANSWER_TIMEOUT, and that less than REQUEST_TIMEOUT."
            )
        return config


def _database_url(url: str) -> str:
    """Return ``url`` once libpq has taken it apart; it is never quoted in an error,
    because it may hold a password."""
    if not url:
        raise ConfigError(
            "DATABASE_URL is not set. Set it to the PostgreSQL database to use, "
            "like postgresql://user:password@host:5432/database, "
            "or start everything on this machine with: make run"
        )
    try:
        parse_dsn(url)
    except (psycopg2.ProgrammingError, UnicodeError):
        raise ConfigError(
            "DATABASE_URL is not a PostgreSQL connection URL. "
            "It looks like postgresql://user:password@host:5432/database"
        ) from None
    return url


def _bind(name: str, bind: str) -> str:
    match = BIND.fullmatch(bind)
    if not match or int(match[1]) > MAX_PORT:
        raise ConfigError(
            f"{name.upper()} must be host:port, like {getattr(Config, name)}, "
            f"not {bind!r}."
        )
    return bind


def address(bind: str) -> tuple[str, int]:
    """Return host and port of ``bind``, one of the settings BIND and METRICS_BIND; port
    0 lets the system choose one."""
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def _whole_number(name: str, text: str) -> int:
    most = MOST.get(name, MOST_OTHERWISE)
    # isdecimal alone lets through the digits of every script.
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most))):
        number = 0
    else:
        number = int(text)
    if not 0 < number <= most:
        raise ConfigError(
            f"{name.upper()} must be a whole number from 1 to {most}, not {text!r}."
        )
    return number
