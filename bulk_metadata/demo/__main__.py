"""``make run``: start the service with a database and an API key.

Starts the embedded PostgreSQL unless DATABASE_URL is set, applies the schema, creates
the missing parts of a demo organization, and runs gunicorn.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

from bulk_metadata.config import Config, ConfigError, address
from bulk_metadata.db.transaction import OperatorError
from bulk_metadata.db.url import parse_url
from bulk_metadata.demo.database import prepare
from bulk_metadata.demo.embedded import embedded_postgres

ROOT = Path(__file__).parents[2]

READY = """
The service is ready. This request replaces the metadata of two devices, and a third
device is not found:

curl http://{bind}/api/ext-v1/device/bulk-metadata \\
  -H "x-api-key: {key}" \\
  -d '{{"devices": {{
        "SN-A100": {{"firmwareVersion": "3.2.1", "status": "active",
                    "location": "Building A"}},
        "SN-B200": {{"firmwareVersion": "3.2.1", "status": "maintenance"}},
        "SN-UNKNOWN": {{"status": "active"}}}}}}'

To send the request from a browser, open http://{bind}/docs
The API key is stored in {key_file}
"""

READY_HISTORY = """
To list the requests, and to restore the metadata that one of them replaced, run these
commands in this directory, in another terminal:

export DATABASE_URL="{url}"
.venv/bin/flask list-requests demo
.venv/bin/flask undo demo --request ID
"""

READY_END = "\nPress Ctrl-C to stop the service. The data is kept."


@click.command()
@click.argument("data", default=ROOT / ".data", type=click.Path(path_type=Path))
def main(data: Path) -> None:
    """Run the demo with its files in the directory DATA until it is interrupted."""
    database_url = os.environ.get("DATABASE_URL")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # Report invalid settings before PostgreSQL starts.
    config = read_config(database_url or "postgresql://")
    check_ports(config)
    try:
        if database_url:
            run(config, config, data / "demo.key")
        else:
            click.echo("Starting PostgreSQL ...")
            with embedded_postgres(data / "postgres") as url:
                service = read_config(f"{url}&user=bulk_metadata_service")
                run(read_config(url), service, data / "demo.key", with_history=True)
    except OperatorError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("Stopped.")


def read_config(url: str) -> Config:
    """Return the settings of the environment with this DATABASE_URL."""
    try:
        parse_url(url)
        return Config.from_env({**os.environ, "DATABASE_URL": url})
    except ConfigError as error:
        raise click.ClickException(str(error)) from None


def check_ports(config: Config) -> None:
    """Raise click.ClickException if a port of the service is in use."""
    for name, other in (("bind", 8001), ("metrics_bind", 9465)):
        bind = getattr(config, name)
        host, port = address(bind)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            raise click.ClickException(
                f"Cannot listen on {bind}: {error.strerror}. Stop the program that "
                "uses the port, or choose another port: "
                f"make run {name.upper()}=127.0.0.1:{other}"
            ) from None


def run(
    owner: Config, service: Config, key_file: Path, *, with_history: bool = False
) -> None:
    """Prepare the database as its owner, then run the service."""
    key = prepare(owner, key_file, with_history=with_history)
    ready = READY.format(bind=service.bind, key=key, key_file=key_file)
    if with_history:
        ready += READY_HISTORY.format(url=owner.database_url)
    serve(service, ready + READY_END)


def serve(config: Config, ready: str) -> None:
    """Run gunicorn until this process is interrupted. Print ``ready`` once it listens.

    Raises click.ClickException if gunicorn exits.
    """
    # In a separate process group, Ctrl-C does not reach gunicorn directly. It gets
    # SIGTERM instead, so that the requests in flight complete.
    gunicorn = subprocess.Popen(
        [sys.executable, "-m", "gunicorn"],
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": config.database_url},
        process_group=0,
    )
    try:
        if wait_for_port(gunicorn, config):
            click.echo(ready)
        gunicorn.wait()
    finally:
        gunicorn.terminate()
        gunicorn.wait()
    raise click.ClickException("gunicorn exited; the reason is logged above.")


def wait_for_port(process: subprocess.Popen[bytes], config: Config) -> bool:
    """Wait until ``process`` listens. Return whether it does; it may exit instead."""
    while process.poll() is None:
        try:
            socket.create_connection(address(config.bind), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False


main()
