"""The settings: a wrong one is named, and said how to mend."""

import os
import subprocess
import sys

import pytest

from bulk_metadata.config import Config, ConfigError, address
from tests.support.service import ROOT

URL = "postgresql://user:p4ssw0rd@host/database"


def test_the_url_is_all_that_is_needed() -> None:
    assert Config.from_env({"DATABASE_URL": URL, "THREADS": ""}) == Config(URL)


def test_every_setting_can_be_set() -> None:
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
            "MAX_BODY_BYTES": "10",
        }
    )
    assert config == Config(
        URL, "0.0.0.0:80", "[::1]:9000", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
    )
    assert address(config.bind) == ("0.0.0.0", 80)  # noqa: S104
    assert address(config.metrics_bind) == ("::1", 9000)


def test_there_are_as_many_connections_as_threads() -> None:
    assert Config.from_env({"DATABASE_URL": URL, "THREADS": "16"}).pool_size == 16


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set."),
        (
            {"DATABASE_URL": "user:p4ssw0rd@host"},
            "DATABASE_URL is not a PostgreSQL connection URL.",
        ),
        (
            {"DATABASE_URL": "mysql://user:p4ssw0rd@host/database"},
            "DATABASE_URL is not a PostgreSQL connection URL.",
        ),
        ({"WORKERS": "0"}, "WORKERS must be a whole number from 1 to 86400, not '0'."),
        ({"THREADS": "four"}, "THREADS must be a whole number from 1 to 86400"),
        ({"POOL_SIZE": "-1"}, "POOL_SIZE must be a whole number from 1 to 86400"),
        ({"POOL_TIMEOUT": "86401"}, "POOL_TIMEOUT must be a whole number from 1 to"),
        ({"POOL_TIMEOUT": "9" * 5000}, "POOL_TIMEOUT must be a whole number from 1"),
        ({"LOCK_TIMEOUT": "²"}, "LOCK_TIMEOUT must be a whole number from 1 to"),
        ({"MAX_BODY_BYTES": "1e6"}, "MAX_BODY_BYTES must be a whole number from 1 to"),
        (
            {"MAX_BODY_BYTES": "16777217"},
            "MAX_BODY_BYTES must be a whole number from 1 to 16777216, not '16777217'.",
        ),
        ({"LOCK_TIMEOUT": "6"}, "LOCK_TIMEOUT must be less than STATEMENT_TIMEOUT, "),
        ({"STATEMENT_TIMEOUT": "8"}, "LOCK_TIMEOUT must be less than STATEMENT_TIMEO"),
        ({"REQUEST_TIMEOUT": "8"}, "LOCK_TIMEOUT must be less than STATEMENT_TIMEOUT"),
        ({"DATABASE_URL": "\udcff"}, "DATABASE_URL is not a PostgreSQL connection U"),
        (
            {"METRICS_BIND": "off"},
            "METRICS_BIND must be host:port, like 127.0.0.1:9464, not 'off'.",
        ),
        *(
            (
                {"BIND": bind},
                f"BIND must be host:port, like 127.0.0.1:8000, not '{bind}'",
            )
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
def test_a_wrong_setting_is_named(setting: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.from_env({"DATABASE_URL": URL, **setting})
    assert str(caught.value).startswith(sentence)
    assert "p4ssw0rd" not in str(caught.value)


@pytest.mark.parametrize("command", ["gunicorn", "flask init-db", "flask list-keys"])
def test_a_wrong_setting_stops_the_start_with_a_sentence(command: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("DATABASE_URL is not set. Set it to the ")
    assert process.stderr.count("\n") == 1
