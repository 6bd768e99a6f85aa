"""The settings: read once from the environment, checked before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import psycopg2
from psycopg2.extensions import parse_dsn

# JENTRY_OFFLENMASK in PostgreSQL's utils/jsonb.h, plus one.
MAX_JSONB_STRING_BYTES = 256 * 1024 * 1024


class ConfigError(Exception):
    """A setting is missing or wrong; the message names it and says what to do."""


@dataclass(frozen=True)
class Config:
    """Every setting, named as in the environment but in lower case.

    Time limits are whole seconds, and each wait is shorter than the one around it:
    lock < statement < gunicorn's own ``timeout``.
    """

    database_url: str
    bind: str = "127.0.0.1:8000"
    workers: int = 2
    threads: int = 4
    # One connection a thread: a smaller pool makes requests wait for one another.
    pool_size: int = 4
    pool_timeout: int = 3
    connect_timeout: int = 3
    lock_timeout: int = 4
    statement_timeout: int = 8
    max_body_bytes: int = 10 * 1024 * 1024

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
            name: _whole_number(name.upper(), text)
            for name, text in sent.items()
            if name not in ("database_url", "bind")
        }
        config = cls(
            database_url=_database_url(sent.get("database_url", "")),
            bind=sent.get("bind", cls.bind),
            **numbers,
        )
        if config.lock_timeout >= config.statement_timeout:
            raise ConfigError("LOCK_TIMEOUT must be less than STATEMENT_TIMEOUT.")
        if config.max_body_bytes > MAX_JSONB_STRING_BYTES:
            raise ConfigError(
                f"MAX_BODY_BYTES must be at most {MAX_JSONB_STRING_BYTES} bytes, "
                "about the longest string that PostgreSQL's jsonb holds."
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
    except psycopg2.ProgrammingError:
        raise ConfigError(
            "DATABASE_URL is not a PostgreSQL connection URL. "
            "It looks like postgresql://user:password@host:5432/database"
        ) from None
    return url


def _whole_number(name: str, text: str) -> int:
    # isdecimal alone lets through the digits of every script.
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ConfigError(f"{name} must be a whole number above 0, not {text!r}.")
    return int(text)
