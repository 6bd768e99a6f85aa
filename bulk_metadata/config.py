"""The settings, read from the environment and validated at start-up."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bulk_metadata.core.limits import DEFAULT_MAX_BODY_BYTES

# PostgreSQL limits a value to 1 GiB. Parsing many small values, or the text of many
# numbers like 1e308, comes near this limit for a larger body.
MAX_BODY_BYTES = 16 * 1024 * 1024
# Maximum of the other numbers: a day in seconds. Larger numbers are mistakes.
MAX_NUMBER = 86_400

# A host name, an IPv4 address or an IPv6 address in brackets, and a port.
BIND = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})", re.ASCII)
MAX_PORT = 65_535
NUMBER = re.compile(r"[0-9]{1,8}")


class ConfigError(Exception):
    """A missing or invalid setting. The message names it and how to correct it."""


@dataclass(frozen=True)
class Config:
    """The settings. Their names in the environment are in upper case.

    Timeouts are whole seconds. Each timeout is shorter than the enclosing one, so that
    the most specific error is reported first: lock < statement < answer < request.
    """

    database_url: str
    bind: str = "127.0.0.1:8000"
    metrics_bind: str = "127.0.0.1:9464"
    workers: int = 2
    threads: int = 4
    # One connection for each thread. With fewer, requests wait for each other.
    pool_size: int = 4
    pool_timeout: int = 2
    # libpq has no shorter timeout.
    connect_timeout: int = 2
    lock_timeout: int = 4
    statement_timeout: int = 6
    answer_timeout: int = 8
    # For reading a request, and again for writing a response. Sufficient for the
    # largest body over a slow network.
    request_timeout: int = 30
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Config":
        """Return the settings in ``environ``, where an empty value is the default.

        Raises ConfigError for the first invalid setting.
        """
        texts = {
            field.name: text
            for field in fields(cls)
            if (text := environ.get(field.name.upper()))
        }
        if "database_url" not in texts:
            raise ConfigError(
                "DATABASE_URL is not set. Set it to the URL of a PostgreSQL database, "
                "for example postgresql://user:password@host:5432/database. "
                "To start the service with an embedded PostgreSQL, use: make run"
            )
        if "threads" in texts:
            texts.setdefault("pool_size", texts["threads"])
        values: dict[str, Any] = {
            name: (_bind if name.endswith("bind") else _whole_number)(name, text)
            for name, text in texts.items()
            if name != "database_url"
        }
        config = cls(texts["database_url"], **values)
        if not (
            config.lock_timeout
            < config.statement_timeout
            < config.answer_timeout
            < config.request_timeout
        ):
            raise ConfigError(
                "LOCK_TIMEOUT must be less than STATEMENT_TIMEOUT, STATEMENT_TIMEOUT "
                "less than ANSWER_TIMEOUT, and ANSWER_TIMEOUT less than "
                "REQUEST_TIMEOUT."
            )
        return config


def address(bind: str) -> tuple[str, int]:
    """Return the host and port of BIND or METRICS_BIND. Port 0 means any free port."""
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), int(port)


def _bind(name: str, text: str) -> str:
    match = BIND.fullmatch(text)
    if not match or int(match[1]) > MAX_PORT:
        raise ConfigError(
            f"{name.upper()} must be host:port, like {getattr(Config, name)}, "
            f"not {text!r}."
        )
    return text


def _whole_number(name: str, text: str) -> int:
    maximum = MAX_BODY_BYTES if name == "max_body_bytes" else MAX_NUMBER
    # int() also accepts signs, spaces, underscores and the digits of all scripts.
    if not NUMBER.fullmatch(text) or not 0 < int(text) <= maximum:
        raise ConfigError(
            f"{name.upper()} must be a whole number from 1 to {maximum}, not {text!r}."
        )
    return int(text)
