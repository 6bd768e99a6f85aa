"""Fixtures of the client tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support.client_runner import Client
from tests.support.fault_proxy import FaultProxy, run_proxy
from tests.support.service import Service


@pytest.fixture
def proxy(service: Service) -> Iterator[FaultProxy]:
    """The fault proxy in front of the service."""
    with run_proxy(service.port) as proxy:
        yield proxy


@pytest.fixture
def pusher(proxy: FaultProxy, acme: Organization, tmp_path: Path) -> Client:
    """The client with the API key of Acme, which sends through the fault proxy."""
    return Client(tmp_path, proxy.url, acme.key)
