"""``make run``: the service with all it needs on this machine, ready to be called.

Starts the embedded PostgreSQL (unless DATABASE_URL names another), applies the schema,
makes a demo organization with devices and a key where they are missing, runs gunicorn.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click
from psycopg2.extensions import make_dsn

from bulk_metadata.api_key import digest
from bulk_metadata.commands.keys import create_key
from bulk_metadata.commands.organizations import find_organization
from bulk_metadata.commands.schema import apply_schema
from bulk_metadata.commands.session import transaction
from bulk_metadata.config import Config, ConfigError
from bulk_metadata.demo.embedded import start_postgres
from bulk_metadata.queries import select_organization_id

ROOT = Path(__file__).parents[2]

# The contract's example and a few more; SN-UNKNOWN stays unknown.
INSERT_DEMO = """
INSERT INTO organizations (name) VALUES ('demo') ON CONFLICT (name) DO NOTHING;
INSERT INTO devices (organization_id, identifier)
     SELECT organizations.id, identifier
       FROM organizations,
            unnest(ARRAY['SN-A100', 'SN-B200', 'SN-C300', 'SN-D400']) AS identifier
      WHERE name = 'demo'
ON CONFLICT (organization_id, identifier) DO NOTHING
"""

READY = """
Ready. This replaces the metadata of two devices, and asks for one that there is not:

curl http://{bind}/api/ext-v1/device/bulk-metadata \\
  -H "x-api-key: {key}" \\
  -d '{{"devices": {{
        "SN-A100": {{"firmwareVersion": "3.2.1", "status": "active",
                    "location": "Building A"}},
        "SN-B200": {{"firmwareVersion": "3.2.1", "status": "maintenance"}},
        "SN-UNKNOWN": {{"status": "active"}}}}}}'

The key is also in {data}/demo.key. Ctrl-C stops everything; the data stays there.
"""


@click.command()
@click.argument("data", default=ROOT / ".data", type=click.Path(path_type=Path))
def main(data: Path) -> None:
    """Run the demo, with its files in the folder DATA, until it is told to stop."""
    bind = os.environ.get("BIND") or Config.bind
    refuse_taken_port(bind)
    url = os.environ.get("DATABASE_URL")
    database = nullcontext((url, url)) if url else embedded_database(data / "postgres")
    with database as (owner, service):
        key = prepare(owner, data / "demo.key")
        serve(bind, service, READY.format(bind=bind, key=key, data=data))
    click.echo("Stopped.")


def refuse_taken_port(bind: str) -> None:
    """Raise click.ClickException if ``bind``, host:port, cannot be listened at."""
    host, _, port = bind.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"Cannot listen at {bind}: {error}. Stop the program that does, or choose "
            "another port, like this: make run BIND=127.0.0.1:8001"
        ) from None


@contextmanager
def embedded_database(folder: Path) -> Iterator[tuple[str, str]]:
    """Run a PostgreSQL of our own; give its URL for the owner and for the service."""
    click.echo("Starting PostgreSQL ...")
    try:
        server = start_postgres(folder)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise click.ClickException(
            f"PostgreSQL did not start in {folder}: {error}. If that folder is another "
            "user's or broken, remove it; or set DATABASE_URL to a PostgreSQL of yours."
        ) from None
    try:
        owner = server.get_uri()
        yield owner, make_dsn(owner, user="bulk_metadata_service")
    finally:
        server.stop()


def prepare(url: str, key_file: Path) -> str:
    """Make what is missing in the database, and return the demo's API key."""
    try:
        config = Config.from_env({**os.environ, "DATABASE_URL": url})
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    with transaction(config) as cursor:
        apply_schema(cursor)
        cursor.execute(INSERT_DEMO)
        organization_id = find_organization(cursor, "demo")
        key = key_file.read_text() if key_file.exists() else ""
        if select_organization_id(cursor, digest(key)) != organization_id:
            _, key = create_key(cursor, organization_id, "make run")
            key_file.parent.mkdir(parents=True, exist_ok=True)
            key_file.touch(mode=0o600)
            key_file.write_text(key)
    return key


def serve(bind: str, url: str, ready: str) -> None:
    """Run gunicorn until it ends, or we are told to end; say ``ready`` when it is."""
    # In a group of its own, so that Ctrl-C reaches it through us only: as SIGTERM, on
    # which it finishes what it is answering.
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": url},
        process_group=0,
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: gunicorn.terminate())
    if comes_to_listen(gunicorn, bind):
        click.echo(ready)
    if gunicorn.wait() != 0:
        raise click.ClickException("gunicorn ended with an error, see above.")


def comes_to_listen(process: subprocess.Popen[bytes], bind: str) -> bool:
    """Wait until ``process`` listens at ``bind``; return False if it ends before."""
    host, _, port = bind.rpartition(":")
    while process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


main()
