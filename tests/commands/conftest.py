import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from click.testing import Result
from psycopg2.extensions import cursor as Cursor

from app import create_app
from bulk_metadata.config import Config
from tests.conftest import Post, connect
from tests.support.service import ROOT

Flask = Callable[..., Result]


def runner(config: Config, url: str) -> Flask:
    """Return a function that runs ``flask`` with its arguments on the database."""
    cli = create_app(replace(config, database_url=url)).test_cli_runner()

    def flask(*arguments: str, input: str | None = None) -> Result:
        return cli.invoke(args=arguments, input=input)

    return flask


def run_flask(
    owner_url: str,
    *arguments: str,
    stdin: str = "",
    redirect: str = "",
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process, with the redirections of a shell."""
    return subprocess.run(
        [
            "bash",
            "-c",
            f'exec "$@" {redirect}',
            "bash",
            sys.executable,
            "-m",
            "flask",
            *arguments,
        ],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": owner_url},
        input=stdin,
        stdout=stdout,
        stderr=stderr,
        timeout=60,
        text=True,
    )


@pytest.fixture
def flask(config: Config, owner_url: str, cursor: Cursor) -> Flask:
    """Run a command as the owner of the database, on empty tables."""
    return runner(config, owner_url)


@pytest.fixture(scope="module")
def history(config: Config, owner_url: str) -> Iterator[Cursor]:
    """Enable the history. Return a cursor of the owner."""
    flask = runner(config, owner_url)
    assert flask("enable-history").exit_code == 0
    with closing(connect(owner_url)) as connection, connection.cursor() as cursor:
        yield cursor
    assert flask("disable-history", "--yes").exit_code == 0


Send = Callable[..., None]


@pytest.fixture
def send(history: Cursor, post: Post) -> Send:
    """Replace the metadata of devices by a request with this ID."""

    def send(request_id: str, key: str | None = None, **devices: Any) -> None:
        documents = {name: {"v": value} for name, value in devices.items()}
        arguments = () if key is None else (key,)
        headers = {"X-Request-ID": request_id}
        response = post({"devices": documents}, *arguments, **headers)
        assert response.status_code == 200

    return send
