"""Databases on the server of a test run: a template, and a copy for each process."""

import os
from contextlib import closing

import psycopg2
from psycopg2.extensions import connection as Connection

from bulk_metadata.db.schema import apply_schema

PREFIX = "bulk_metadata_test"
TEMPLATE = f"{PREFIX}_template"
SERVICE_ROLE = "bulk_metadata_service"
PASSWORD = "for-tests-only"  # noqa: S105  # a throwaway role

# The process that runs the tests: a worker of pytest-xdist, or the only one.
PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "main")
DATABASE = f"{PREFIX}_{PROCESS}"
# A dedicated login, so that the tests never change the password of the service's role.
LOGIN = {"user": DATABASE, "password": PASSWORD}


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
        with closing(
            connect(psycopg2.extensions.make_dsn(url, dbname=TEMPLATE))
        ) as connection:
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
