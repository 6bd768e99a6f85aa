"""The metrics port: metrics and health checks of all workers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families

from bulk_metadata.server.metrics_server import create_metrics_app
from bulk_metadata.telemetry import multiprocess
from tests.conftest import Organization, connect
from tests.support.service import ANY_PORT, ROOT, Response, Service, run_service
from tests.support.waiting import suspend, wait_until


def request(service: Service, path: str, method: str = "GET") -> requests.Response:
    url = f"http://127.0.0.1:{service.metrics_port}{path}"
    return requests.request(method, url, timeout=10)


def metrics(service: Service) -> dict[str, float]:
    """Return the samples by name and labels."""
    return {
        "|".join([sample.name, *(f"{k}={v}" for k, v in sample.labels.items())]): (
            sample.value
        )
        for family in text_string_to_metric_families(request(service, "/metrics").text)
        for sample in family.samples
    }


def wait_for_workers(service: Service) -> None:
    """Wait until both workers have started and all others have exited."""
    wait_until(lambda: metrics(service)["bulk_metadata_pool_size"] == 8)


@pytest.fixture
def service(service_url: str, tmp_path: Path) -> Iterator[Service]:
    """A separate service, whose metrics contain only the requests of one test."""
    # The multiprocess mode of prometheus_client is not used, so this has no effect.
    settings = {"PROMETHEUS_MULTIPROC_DIR": "/missing", "DATABASE_URL": service_url}
    with run_service(tmp_path / "log", **settings) as service:
        wait_for_workers(service)
        yield service


def test_requests_are_counted_once(service: Service, acme: Organization) -> None:
    acme.insert("SN-1", "SN-2")
    key = {"x-api-key": acme.key}
    body = '{"devices": {"SN-1": {}, "SN-2": {}, "SN-3": {}}}'
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: service.request(body, key), range(20)))
    service.request("{}")
    service.request(path="/elsewhere")
    service.send(b"GET / HTTP/9\r\n\r\n")
    # Health checks are not requests of the API.
    service.request(method="GET", path="/healthz")
    request(service, "/readyz")
    expected = {
        "bulk_metadata_requests_total|status=200": 20,
        "bulk_metadata_requests_total|status=401": 1,
        "bulk_metadata_requests_total|status=404": 1,
        "bulk_metadata_requests_total|status=400": 1,
        "bulk_metadata_requests_total|status=500": 0,
        "bulk_metadata_request_duration_seconds_count": 23,
        "bulk_metadata_request_duration_seconds_bucket|le=+Inf": 23,
        "bulk_metadata_request_devices_count": 20,
        "bulk_metadata_request_devices_sum": 60,
        "bulk_metadata_request_devices_bucket|le=1.0": 0,
        "bulk_metadata_request_devices_bucket|le=10.0": 20,
        "bulk_metadata_database_duration_seconds_count": 20,
        "bulk_metadata_devices_total|result=updated": 40,
        "bulk_metadata_devices_total|result=not_found": 20,
        "bulk_metadata_retries_total|cause=connection": 0,
        "bulk_metadata_retries_total|cause=deadlock": 0,
        "bulk_metadata_retries_total|cause=serialization": 0,
        "bulk_metadata_pool_size": 8,
        "bulk_metadata_pool_in_use": 0,
        "bulk_metadata_pool_waiting": 0,
        "bulk_metadata_pool_timeouts_total": 0,
    }
    # Each worker returns the metrics of both.
    for _ in range(10):
        found = metrics(service)
        assert {name: found[name] for name in expected} == expected
    [info] = [name for name in found if name.startswith("bulk_metadata_build_info")]
    assert "|version=1.3.0" in info
    assert found[info] == 1
    assert found["bulk_metadata_request_duration_seconds_sum"] > 0
    assert found["bulk_metadata_database_duration_seconds_sum"] > 0


@contextmanager
def request_in_flight(
    service: Service, acme: Organization, owner_url: str
) -> Iterator[Future[Response]]:
    """Send a request that waits for a device locked by another transaction."""
    acme.insert("SN-1")
    locker = connect(owner_url)
    with locker.cursor() as cursor, ThreadPoolExecutor(1) as executor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT FROM devices FOR UPDATE")
        body = '{"devices": {"SN-1": {"a": 1}}}'
        try:
            future = executor.submit(service.request, body, {"x-api-key": acme.key})
            wait_until(lambda: metrics(service)["bulk_metadata_pool_in_use"] == 1)
            yield future
        finally:
            locker.close()


def test_busy_threads_do_not_delay_health_checks(
    service_url: str, owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": service_url, "WORKERS": "1", "THREADS": "1"}
    with run_service(tmp_path / "log", **settings) as service:
        with request_in_flight(service, acme, owner_url) as in_flight:
            assert request(service, "/healthz").json() == {"status": "ok"}
            response = request(service, "/readyz")
            assert response.json() == {"error": "All connections are in use"}
            assert response.status_code == 503
            assert not in_flight.done()
        assert in_flight.result().status == 200
        wait_until(lambda: request(service, "/readyz").status_code == 200)
        found = metrics(service)
    assert found["bulk_metadata_pool_timeouts_total"] == 1
    assert found["bulk_metadata_pool_in_use"] == 0


def test_killed_worker_keeps_counts_and_loses_gauges(
    service: Service, acme: Organization, owner_url: str
) -> None:
    before = service.workers()
    for _ in range(10):
        service.request("{}", {"x-api-key": acme.key})
    with request_in_flight(service, acme, owner_url) as in_flight:
        for worker in before.values():
            worker.kill()
        with pytest.raises((ConnectionError, OSError)):
            in_flight.result()
        wait_until(lambda: len(service.workers().keys() - before) == 2)
        wait_for_workers(service)
        found = metrics(service)
    assert found["bulk_metadata_pool_in_use"] == 0
    assert found["bulk_metadata_requests_total|status=400"] == 10
    assert found["bulk_metadata_request_duration_seconds_count"] == 10


def test_reload_keeps_port_and_counts(service: Service, acme: Organization) -> None:
    for number in range(1, 3):
        service.request("{}", {"x-api-key": acme.key})
        service.reload()
        wait_for_workers(service)
        assert metrics(service)["bulk_metadata_requests_total|status=400"] == number


def test_workers_beyond_last_cell_share_it() -> None:
    assert multiprocess.free_cell([0, 2]) == 1
    assert multiprocess.free_cell(range(512)) == 511


def test_suspended_worker_does_not_delay_scrapes(service: Service) -> None:
    suspended = next(iter(service.workers().values()))
    suspend(suspended)
    try:
        for _ in range(20):
            assert request(service, "/metrics").elapsed.total_seconds() < 2
    finally:
        suspended.resume()


def test_silent_client_does_not_delay_others(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.metrics_port)):
        for _ in range(10):
            assert request(service, "/healthz").ok


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/elsewhere", 404, "Not Found"),
        ("DELETE", "/metrics", 405, "Method Not Allowed"),
    ],
)
def test_unknown_path_or_method_is_rejected(
    method: str, path: str, status: int, message: str, app: Flask
) -> None:
    response = create_metrics_app(app).test_client().open(path, method=method)
    assert (response.status_code, response.json) == (status, {"error": message})


def test_internal_error_is_a_500(app: Flask) -> None:
    metrics_app = create_metrics_app(app)
    del metrics_app.extensions["readiness"]
    response = metrics_app.test_client().get("/readyz")
    assert (response.status_code, response.json) == (
        500,
        {"error": "Internal server error"},
    )


def start_gunicorn(service_url: str, bind: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gunicorn"],
        cwd=ROOT,
        env={
            **os.environ,
            **ANY_PORT,
            "METRICS_BIND": bind,
            "DATABASE_URL": service_url,
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def test_port_in_use_prevents_start(service_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bind = f"127.0.0.1:{server.getsockname()[1]}"
        process = start_gunicorn(service_url, bind)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    message = errors.splitlines()[-1]
    assert message.startswith(f"Cannot listen on {bind}: Address already in use")
    assert message.endswith("set another one, for example METRICS_BIND=127.0.0.1:9465")


@pytest.mark.skipif(not socket.has_ipv6, reason="IPv6 is not available")
def test_ipv6_address_is_supported(service_url: str) -> None:
    process = start_gunicorn(service_url, "[::1]:0")
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "Metrics at" in line)
        url = line.split()[-1]
        assert url.startswith("http://[::1]:")
        assert requests.get(url, timeout=60).ok
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
