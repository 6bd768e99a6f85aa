"""The PostgreSQL server of a test run."""

import gc
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException
from requests import RequestException
from testcontainers.community.postgres import PostgresContainer

from bulk_metadata.demo.embedded import embedded_postgres

# The default of TEST_POSTGRES_IMAGE.
IMAGE = "postgres:18"

# Seconds. A Docker engine that does not respond in this time counts as unavailable.
PULL_TIMEOUT = 60


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
        with PostgresContainer(image, username="postgres", driver=None) as container:
            yield container.get_connection_url(), f"a container of {image}"
        return
    with (
        tempfile.TemporaryDirectory(prefix="bulk-metadata-") as folder,
        embedded_postgres(Path(folder, "postgres")) as url,
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
