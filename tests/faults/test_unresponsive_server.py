"""A PostgreSQL that accepts and never answers."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.service import run_service

pytestmark = pytest.mark.faults

THREADS = 8

BODY = '{"devices": {"SN-0": {"a": 1}}}'


def test_a_frozen_server_is_given_up_and_used_again(
    server: Cluster, folder: Path
) -> None:
    headers = {"x-api-key": server.prepare(devices=1)}
    # A thread for every call, or some would wait for others first.
    settings = {
        "DATABASE_URL": server.service_url,
        "WORKERS": "1",
        "THREADS": str(THREADS),
    }
    with (
        run_service(folder / "gunicorn", **settings) as service,
        ThreadPoolExecutor(THREADS) as executor,
    ):

        def call(_: int) -> tuple[int, float]:
            start = time.monotonic()
            return service.request(BODY, headers).status, time.monotonic() - start

        assert {status for status, _ in executor.map(call, range(THREADS))} == {200}
        server.freeze()
        answers = list(executor.map(call, range(THREADS)))
        assert {status for status, _ in answers} == {500}
        assert max(seconds for _, seconds in answers) < 15
        # No key, no database, no wait: the threads are back.
        assert service.request(BODY, {"x-api-key": "x"}).status == 401
        server.thaw()
        assert {status for status, _ in executor.map(call, range(THREADS))} == {200}
