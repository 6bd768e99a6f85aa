"""What the client's tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support.client_runner import Client
from tests.support.fault_proxy import FaultProxy, run_proxy
from tests.support.service import Service


@pytest.fixture
def proxy(service: Service) -> Iterator[FaultProxy]:
    """A proxy before the service."""
    with run_proxy(service.port) as proxy:
        yield proxy


@pytest.fixture
def pusher(proxy: FaultProxy, acme: Organization, tmp_path: Path) -> Client:
    """The client with Acme's key, through the proxy, in a folder of its own."""
    return Client(tmp_path, proxy.url, acme.key)
