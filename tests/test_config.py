"""Settings: defaults, values and error messages."""

import pytest

from bulk_metadata.config import Config, ConfigError, address

URL = "postgresql://user:p4ssw0rd@host/database"
ORDER = "LOCK_TIMEOUT must be less than STATEMENT_TIMEOUT, "


def test_only_database_url_is_required() -> None:
    assert Config.from_env({"DATABASE_URL": URL, "THREADS": ""}) == Config(URL)


def test_every_setting_is_read() -> None:
    config = Config.from_env(
        {
            "DATABASE_URL": URL,
            "BIND": "0.0.0.0:80",
            "METRICS_BIND": "[::1]:9000",
            "WORKERS": "1",
            "THREADS": "2",
            "POOL_SIZE": "3",
            "POOL_TIMEOUT": "4",
            "CONNECT_TIMEOUT": "5",
            "LOCK_TIMEOUT": "6",
            "STATEMENT_TIMEOUT": "7",
            "ANSWER_TIMEOUT": "8",
            "REQUEST_TIMEOUT": "9",
            "MAX_BODY_BYTES": "00000010",
        }
    )
    assert config == Config(
        URL, "0.0.0.0:80", "[::1]:9000", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    )
    assert address(config.bind) == ("0.0.0.0", 80)  # noqa: S104
    assert address(config.metrics_bind) == ("::1", 9000)


def test_pool_size_defaults_to_threads() -> None:
    assert Config.from_env({"DATABASE_URL": URL, "THREADS": "16"}).pool_size == 16


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DATABASE_URL", "", "DATABASE_URL is not set."),
        ("WORKERS", "0", "WORKERS must be a whole number from 1 to 86400, not '0'."),
        *(
            (name, value, f"{name} must be a whole number from 1 to 86400, not")
            for name, value in (
                ("THREADS", "four"),
                ("POOL_SIZE", "-1"),
                ("POOL_TIMEOUT", "86401"),
                ("CONNECT_TIMEOUT", "9" * 5000),
                ("LOCK_TIMEOUT", "²"),
                ("ANSWER_TIMEOUT", "1_0"),
            )
        ),
        *(
            (
                "MAX_BODY_BYTES",
                value,
                f"MAX_BODY_BYTES must be a whole number from 1 to"
                f" 16777216, not '{value}'.",
            )
            for value in ("1e6", "16777217")
        ),
        ("LOCK_TIMEOUT", "6", ORDER),
        ("STATEMENT_TIMEOUT", "8", ORDER),
        ("REQUEST_TIMEOUT", "8", ORDER),
        ("METRICS_BIND", "off", "METRICS_BIND must be host:port, like 127.0.0.1:9464"),
        *(
            ("BIND", bind, f"BIND must be host:port, like 127.0.0.1:8000, not '{bind}'")
            for bind in (
                "8000",
                ":8000",
                "127.0.0.1",
                "127.0.0.1:",
                "127.0.0.1:http",
                "127.0.0.1:65536",
                "::1:8000",
                "127.0.0.1:8000 ",
                "unix:/tmp/socket",
            )
        ),
    ],
)
def test_invalid_setting_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({"DATABASE_URL": URL, name: value})
    assert str(caught.value).startswith(message)
