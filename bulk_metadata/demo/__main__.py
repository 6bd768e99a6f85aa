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
from pathlib import Path

import click
from psycopg2.extensions import make_dsn

from bulk_metadata.config import Config, ConfigError, address
from bulk_metadata.core.api_key import digest
from bulk_metadata.db.accounts import create_key, find_organization
from bulk_metadata.db.queries import select_caller
from bulk_metadata.db.schema import apply_schema
from bulk_metadata.db.transaction import OperatorError, transaction
from bulk_metadata.demo.embedded import embedded_postgres

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

The same on a page: http://{bind}/docs
The key is also in {key_file}. Ctrl-C stops the service; the data stays.
"""


@click.command()
@click.argument("data", default=ROOT / ".data", type=click.Path(path_type=Path))
def main(data: Path) -> None:
    """Run the demo, with its files in the folder DATA, until it is told to stop."""
    given = os.environ.get("DATABASE_URL")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # Whatever is wrong with the settings is said before anything starts.
    config = read_config(given or "postgresql://")
    refuse_taken_port(config)
    try:
        if given:
            run(config, config, data / "demo.key")
        else:
            click.echo("Starting PostgreSQL ...")
            with embedded_postgres(data / "postgres") as url:
                service_url = make_dsn(url, user="bulk_metadata_service")
                run(read_config(url), read_config(service_url), data / "demo.key")
    except OperatorError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped.")


def read_config(url: str) -> Config:
    """Return the settings of the environment, with this DATABASE_URL."""
    try:
        return Config.from_env({**os.environ, "DATABASE_URL": url})
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def refuse_taken_port(config: Config) -> None:
    """Raise click.ClickException if nobody can listen where the service should."""
    for name, other in (("bind", 8001), ("metrics_bind", 9465)):
        bind = getattr(config, name)
        host, port = address(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            raise click.ClickException(
                f"Cannot listen at {bind}: {error.strerror}. Stop the program that "
                "does, or choose another port, like this: "
                f"make run {name.upper()}=127.0.0.1:{other}"
            ) from None


def run(owner: Config, service: Config, key_file: Path) -> None:
    """Prepare the database as its owner, and serve until it ends."""
    key = prepare(owner, key_file)
    serve(service, READY.format(bind=service.bind, key=key, key_file=key_file))


def prepare(config: Config, key_file: Path) -> str:
    """Make what is missing in the database, and return the demo's API key."""
    with transaction(config) as cursor:
        apply_schema(cursor)
        cursor.execute(INSERT_DEMO)
        organization_id = find_organization(cursor, "demo")
        key = key_file.read_text() if key_file.exists() else ""
        caller = select_caller(cursor, digest(key))
        if caller is None or caller.organization_id != organization_id:
            key = create_key(cursor, organization_id, "make run").text
            key_file.parent.mkdir(parents=True, exist_ok=True)
            key_file.touch(mode=0o600)
            key_file.write_text(key)
    return key


def serve(config: Config, ready: str) -> None:
    """Run gunicorn until we are told to end; say ``ready`` when it is.

    Raises click.ClickException if it ends before.
    """
    # In a group of its own, so that Ctrl-C reaches it through us only: as SIGTERM, on
    # which it finishes what it is answering.
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": config.database_url},
        process_group=0,
    )
    try:
        if comes_to_listen(gunicorn, config):
            click.echo(ready)
        gunicorn.wait()
    finally:
        gunicorn.terminate()
        gunicorn.wait()
    raise click.ClickException("gunicorn ended by itself, see above.")


def comes_to_listen(process: subprocess.Popen[bytes], config: Config) -> bool:
    """Wait until ``process`` listens; return False if it ends before."""
    while process.poll() is None:
        try:
            socket.create_connection(address(config.bind), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


main()
