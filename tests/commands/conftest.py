from collections.abc import Callable
from dataclasses import replace

import pytest
from click.testing import Result
from psycopg2.extensions import cursor as Cursor

from app import create_app
from bulk_metadata.config import Config

Flask = Callable[..., Result]


def runner(config: Config, url: str) -> Flask:
    """Return a function that runs ``flask`` with its arguments on the database."""
    cli = create_app(replace(config, database_url=url)).test_cli_runner()

    def flask(*arguments: str) -> Result:
        return cli.invoke(args=arguments)

    return flask


@pytest.fixture
def flask(config: Config, owner_url: str, cursor: Cursor) -> Flask:
    """Run a command as the owner of the database, on empty tables."""
    return runner(config, owner_url)
