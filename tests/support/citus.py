"""A Citus cluster for the tests, where there is one to be had."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import psycopg2
import pytest
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.network import Network

from tests.support.postgres import can_run

# What a container runs unless TEST_CITUS_IMAGE says otherwise.
IMAGE = "citusdata/citus:14.0"
WORKERS = ("worker-1", "worker-2")


@contextmanager
def citus() -> Iterator[str]:
    """Give the URL of an empty database on the coordinator of a cluster, for its
    superuser: what TEST_CITUS_URL names, or a coordinator and two workers in
    containers. Where neither can be had the test is skipped."""
    if url := os.environ.get("TEST_CITUS_URL"):
        yield url
        return
    image = os.environ.get("TEST_CITUS_IMAGE", IMAGE)
    if not can_run(image):
        pytest.skip(f"TEST_CITUS_URL names no cluster, and {image} cannot be had")
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        for name in WORKERS:
            stack.enter_context(node(image, network, name))
        coordinator = stack.enter_context(node(image, network, "coordinator"))
        url = coordinator.get_connection_url()
        add_workers(url)
        yield url


def node(image: str, network: Network, name: str) -> PostgresContainer:
    """Return a server of the cluster; its fellows are let in without a password."""
    return (
        PostgresContainer(image, username="postgres", driver=None)
        .with_env("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_network(network)
        .with_network_aliases(name)
    )


def add_workers(url: str) -> None:
    """Make one cluster of the containers, once they answer one another."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute("CREATE EXTENSION IF NOT EXISTS citus")
        cursor.execute("SELECT citus_set_coordinator_host('coordinator')")
        for name in WORKERS:
            for attempt in range(60):
                try:
                    cursor.execute("SELECT citus_add_node(%s, 5432)", (name,))
                    break
                except psycopg2.Error:
                    if attempt == 59:
                        raise
                    time.sleep(1)
