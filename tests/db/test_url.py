"""DATABASE_URL: its parameters, and errors that hide the password."""

import os
import subprocess
import sys

import pytest

from bulk_metadata.config import ConfigError
from bulk_metadata.db.url import parse_url
from tests.support.service import ROOT

UNSET = "DATABASE_URL is not set. Set it to the URL of a PostgreSQL database, "
INVALID = "DATABASE_URL is not a PostgreSQL connection URL. Example: postgresql://user:"
UNESCAPED = "DATABASE_URL contains an unescaped @, : or /: percent-encode the password."
UNESCAPED_URL = "postgresql://user:s3@cret@127.0.0.1:1/database"


@pytest.mark.parametrize(
    ("url", "password", "host"),
    [
        ("postgresql://", None, None),
        ("postgres://host", None, "host"),
        ("postgresql://user@[::1]:5432/database", None, "::1"),
        ("postgresql://user:s3cret@host/database", "s3cret", "host"),
        ("postgresql://user:s%40%3A%2F?#t@host:1/database", "s@:/?#t", "host"),
        ("postgresql://user:s3cret@a:1,b:2/?target_session_attrs=any", "s3cret", "a,b"),
        ("postgresql://user:s3cret@/?host=/tmp/a@b:c", "s3cret", "/tmp/a@b:c"),
        ("host=/tmp user=user password=s@:/t", "s@:/t", "/tmp"),
    ],
)
def test_valid_url_is_parsed(url: str, password: str | None, host: str | None) -> None:
    parameters = parse_url(url)
    assert (parameters.get("password"), parameters.get("host")) == (password, host)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        *(
            (f"postgresql://user:{password}@host:5432/database", UNESCAPED)
            for password in ("s3@cret", "s3:cret", "s3/cret", "1/s3cret")
        ),
        ("postgres://s3@cret@host/database", UNESCAPED),
        ("postgresql://user:s3?x/cret@host", INVALID),
        ("postgresql://user:s3@c?ret=1@host", INVALID),
        ("postgresql://user:s3%cret@host", INVALID),
        ("postgresql://user:s3cret/database", INVALID),
        ("user:s3cret@host", INVALID),
        ("mysql://user:s3cret@host/database", INVALID),
        ("password=s3cret host", INVALID),
        ("\udcff", INVALID),
    ],
)
def test_invalid_url_is_rejected_without_quoting_it(url: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert str(caught.value).startswith(message)
    assert "s3" not in str(caught.value)


@pytest.mark.parametrize(
    ("command", "url", "message"),
    [
        ("gunicorn", "", UNSET),
        ("flask init-db", "", UNSET),
        ("gunicorn", UNESCAPED_URL, UNESCAPED),
        ("flask list-keys", UNESCAPED_URL, UNESCAPED),
        ("bulk_metadata.demo", UNESCAPED_URL, UNESCAPED),
    ],
)
def test_invalid_url_prevents_start(command: str, url: str, message: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1
    assert process.stderr.removeprefix("Error: ").startswith(message)
    assert process.stderr.count("\n") == 1
    assert "cret" not in process.stderr + process.stdout
