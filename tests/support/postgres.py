"""The PostgreSQL that the tests run on: always a real server."""

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

# What a container runs unless TEST_POSTGRES_IMAGE says otherwise.
IMAGE = "postgres:18"

# How long the Docker engine may stay silent.
PULL_SECONDS = 60


@contextmanager
def postgres() -> Iterator[tuple[str, str]]:
    """Give a superuser's URL and say in words which server it is: the one that
    TEST_DATABASE_URL names, else one in a container, else the embedded one. TEST_SERVER
    (``container`` or ``embedded``) leaves no choice."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url, "the server that TEST_DATABASE_URL names"
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
    """Tell whether there is a Docker engine that has the image, or can get it."""
    with warnings.catch_warnings():
        # docker leaves a socket open where there is no engine: collected here, it does
        # not fail the test that runs when it would be found.
        warnings.simplefilter("ignore", ResourceWarning)
        found = has_or_pulls(image)
        gc.collect()
    return found


def has_or_pulls(image: str) -> bool:
    try:
        with closing(docker.from_env(timeout=PULL_SECONDS)) as client:
            if not client.images.list(name=image):
                print(f"Pulling {image} ...", file=sys.stderr)
                client.images.pull(image)
    except (DockerException, RequestException):
        return False
    return True
