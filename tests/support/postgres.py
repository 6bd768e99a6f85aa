"""The PostgreSQL server of a test run, and the databases on it."""

import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
import psycopg2
from docker.errors import DockerException
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import make_dsn
from requests import RequestException

from bulk_metadata.db.schema import apply_schema
from bulk_metadata.demo.embedded import embedded_postgres

# The default of TEST_POSTGRES_IMAGE.
IMAGE = "postgres:18"

# Seconds. A Docker engine that does not respond in this time counts as unavailable.
PULL_TIMEOUT = 60

PREFIX = "bulk_metadata_test"
TEMPLATE = f"{PREFIX}_template"
SERVICE_ROLE = "bulk_metadata_service"
PASSWORD = "for-tests-only"  # noqa: S105  # a throwaway role

# The process that runs the tests: a worker of pytest-xdist, or the only one.
PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "main")
DATABASE = f"{PREFIX}_{PROCESS}"
# A dedicated login, so that the tests never change the password of the service's role.
LOGIN = {"user": DATABASE, "password": PASSWORD}


@contextmanager
def postgres() -> Iterator[tuple[str, str]]:
    """Start a server and return the URL of its superuser and a description.

    It is the server at TEST_DATABASE_URL, otherwise one in a container, otherwise the
    embedded one. TEST_SERVER (``container`` or ``embedded``) sets the choice.
    """
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url, "the server at TEST_DATABASE_URL"
        return
    image = os.environ.get("TEST_POSTGRES_IMAGE", IMAGE)
    wanted = os.environ.get("TEST_SERVER") or (
        "container" if can_run(image) else "embedded"
    )
    if wanted == "container":
        # Imported here, because it takes half a second, in every process of a run.
        from testcontainers.community.postgres import PostgresContainer

        with PostgresContainer(image, username="postgres", driver=None) as container:
            yield container.get_connection_url(), f"a container of {image}"
        return
    with (
        tempfile.TemporaryDirectory(prefix="bulk-metadata-") as directory,
        embedded_postgres(Path(directory, "postgres")) as url,
    ):
        yield url, "the embedded server"


def can_run(image: str) -> bool:
    """Return whether a Docker engine has the image, or can pull it."""
    with warnings.catch_warnings():
        # Without an engine, docker leaves a socket open. If it is collected here, the
        # warning does not fail a test.
        warnings.simplefilter("ignore", ResourceWarning)
        found = has_or_pulls(image)
        gc.collect()
    return found


def has_or_pulls(image: str) -> bool:
    try:
        with closing(docker.from_env(timeout=PULL_TIMEOUT)) as client:
            if not client.images.list(name=image):
                print(f"Pulling {image} ...", file=sys.stderr)
                client.images.pull(image)
    except (DockerException, RequestException):
        return False
    return True


def connect(url: str) -> Connection:
    """Return an autocommitting connection, independent of the service."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


class TestDatabases:
    """The databases and roles that a test run creates on the server at ``url``."""

    __test__ = False

    def __init__(self, url: str) -> None:
        self.url = url
        self._names: list[str] = []
        with closing(connect(url)) as server, server.cursor() as cursor:
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (SERVICE_ROLE,))
            self._created_role = cursor.fetchone() is None
        self._create_database(TEMPLATE, "template0")
        with closing(connect(make_dsn(url, dbname=TEMPLATE))) as connection:
            apply_schema(connection.cursor())

    def create(self, process: str) -> None:
        """Create the database of a process, and its login with the settings of the
        service's role, which members of the role do not inherit."""
        name = f"{PREFIX}_{process}"
        self._create_database(name, TEMPLATE)
        with closing(connect(self.url)) as server, server.cursor() as cursor:
            cursor.execute(f"DROP ROLE IF EXISTS {name}")
            cursor.execute(
                f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE {SERVICE_ROLE}"
            )
            cursor.execute(
                "SELECT unnest(setconfig) FROM pg_db_role_setting"
                " WHERE setrole = %s::regrole AND setdatabase = 0",
                (SERVICE_ROLE,),
            )
            for [setting] in cursor.fetchall():
                parameter, _, value = setting.partition("=")
                cursor.execute(f"ALTER ROLE {name} SET {parameter} = %s", (value,))

    def drop(self) -> None:
        """Drop all databases and roles of the run."""
        with closing(connect(self.url)) as server, server.cursor() as cursor:
            for name in self._names:
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
                cursor.execute(f"DROP ROLE IF EXISTS {name}")
            if self._created_role:
                cursor.execute(f"DROP ROLE IF EXISTS {SERVICE_ROLE}")

    def _create_database(self, name: str, template: str) -> None:
        self._names.append(name)
        with closing(connect(self.url)) as server, server.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            cursor.execute(
                f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE {template}"
            )
