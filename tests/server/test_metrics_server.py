"""The operations port: metrics and health of all workers, whatever those are doing."""

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Organization, connect
from tests.support.service import ANY_PORT, ROOT, Answer, Service, run_service


def get(service: Service, path: str) -> requests.Response:
    return requests.get(f"http://127.0.0.1:{service.operations_port}{path}", timeout=10)


def metrics(service: Service) -> dict[str, float]:
    """Return the samples by name and labels, as they stand."""
    return {
        sample.name
        + "".join(
            f"|{name}={value}" for name, value in sorted(sample.labels.items())
        ): (sample.value)
        for family in text_string_to_metric_families(get(service, "/metrics").text)
        for sample in family.samples
    }


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError(condition)


@pytest.fixture
def alone(service_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service of the test's own, with nobody else's calls in its metrics."""
    with run_service(tmp_path / "log", DATABASE_URL=service_url) as service:
        wait_until(lambda: metrics(service)["bulk_metadata_pool_size"] == 8)
        yield service


def workers(service: Service) -> set[int]:
    return {child.pid for child in psutil.Process(service.process.pid).children()}


def reload_workers(service: Service) -> None:
    before = workers(service)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in before))
    wait_until(lambda: metrics(service)["bulk_metadata_pool_size"] == 8)


def shared_folder(service: Service) -> Path:
    """Return where the workers share their metrics: in memory, not on a disk."""
    [folder] = Path("/dev/shm").glob(f"bulk-metadata-*.{service.process.pid}")
    return folder


def test_all_calls_are_counted_once(alone: Service, acme: Organization) -> None:
    acme.insert("SN-1", "SN-2")
    key = {"x-api-key": acme.key}
    body = '{"devices": {"SN-1": {}, "SN-2": {}, "SN-3": {}}}'
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda _: alone.request(body, key), range(20)))
    alone.request("{}")
    alone.request(path="/elsewhere")
    alone.send(b"GET / HTTP/9\r\n\r\n")
    # No calls of the API.
    alone.request(method="GET", path="/healthz")
    get(alone, "/readyz")
    expected = {
        "bulk_metadata_requests_total|status=200": 20,
        "bulk_metadata_requests_total|status=401": 1,
        "bulk_metadata_requests_total|status=404": 1,
        "bulk_metadata_requests_total|status=400": 1,
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
    # Whichever worker answers, it answers for both.
    for _ in range(10):
        found = metrics(alone)
        assert {name: found[name] for name in expected} == expected
    [info] = [name for name in found if name.startswith("bulk_metadata_build_info")]
    assert info.endswith("|version=1.2.0")
    assert found["bulk_metadata_request_duration_seconds_sum"] > 0
    assert found["bulk_metadata_database_duration_seconds_sum"] > 0


def test_metrics_are_not_on_the_apis_port(service: Service) -> None:
    assert service.request(method="GET", path="/metrics").status == 404


@contextmanager
def waiting_call(
    service: Service, acme: Organization, owner_url: str
) -> Iterator[Future[Answer]]:
    """Have a call wait for a device that another transaction holds."""
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


def test_it_answers_while_every_thread_waits(
    service_url: str, owner_url: str, acme: Organization, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": service_url, "WORKERS": "1", "THREADS": "1"}
    with run_service(tmp_path / "log", **settings) as service:
        with waiting_call(service, acme, owner_url) as call:
            assert get(service, "/healthz").json() == {"status": "ok"}
            answer = get(service, "/readyz")
            assert answer.json() == {"error": "All connections are in use"}
            assert answer.status_code == 503
            assert not call.done()
        assert call.result().status == 200
        wait_until(lambda: get(service, "/readyz").status_code == 200)
        found = metrics(service)
    assert found["bulk_metadata_pool_timeouts_total"] == 1
    assert found["bulk_metadata_pool_in_use"] == 0


def test_a_dead_worker_leaves_its_counts_and_nothing_else(
    alone: Service, acme: Organization, owner_url: str
) -> None:
    before = workers(alone)
    for _ in range(10):
        alone.request("{}", {"x-api-key": acme.key})
    with waiting_call(alone, acme, owner_url) as call:
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises((ConnectionError, OSError)):
            call.result()
        wait_until(
            lambda: (
                len(workers(alone)) == 2
                and get(alone, "/healthz").ok
                and metrics(alone)["bulk_metadata_pool_size"] == 8
            )
        )
        found = metrics(alone)
    assert found["bulk_metadata_pool_in_use"] == 0
    assert found["bulk_metadata_requests_total|status=400"] == 10
    assert found["bulk_metadata_request_duration_seconds_count"] == 10


def test_dead_workers_leave_no_files(alone: Service, acme: Organization) -> None:
    """Each look at the metrics reads all there are."""
    folder = shared_folder(alone)
    files = len(list(folder.iterdir()))
    for number in range(1, 4):
        reload_workers(alone)
        alone.request("{}", {"x-api-key": acme.key})
        found = metrics(alone)
        assert found["bulk_metadata_requests_total|status=400"] == number
        assert found["bulk_metadata_request_duration_seconds_count"] == number
    # Two for all of the dead: their counters, and their histograms.
    assert len(list(folder.iterdir())) <= files + 2


def test_a_look_at_the_metrics_does_not_keep_the_master_waiting(
    alone: Service, acme: Organization
) -> None:
    alone.request("{}", {"x-api-key": acme.key})
    with (shared_folder(alone) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = workers(alone)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(workers(alone) - before) == 2)
        assert get(alone, "/healthz").ok
    assert metrics(alone)["bulk_metadata_requests_total|status=400"] == 1


def test_a_reload_keeps_the_port_and_the_counts(
    alone: Service, acme: Organization
) -> None:
    alone.request("{}", {"x-api-key": acme.key})
    reload_workers(alone)
    alone.request("{}", {"x-api-key": acme.key})
    assert metrics(alone)["bulk_metadata_requests_total|status=400"] == 2


def test_a_silent_client_does_not_keep_others_waiting(alone: Service) -> None:
    with socket.create_connection(("127.0.0.1", alone.operations_port)):
        for _ in range(10):
            assert get(alone, "/healthz").ok


def test_other_paths_and_methods_are_refused_in_json(alone: Service) -> None:
    answer = get(alone, "/elsewhere")
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})
    answer = requests.delete(
        f"http://127.0.0.1:{alone.operations_port}/metrics", timeout=10
    )
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


def test_what_fails_is_logged_and_nothing_else(alone: Service) -> None:
    get(alone, "/metrics")
    shutil.rmtree(shared_folder(alone))
    answer = get(alone, "/metrics")
    assert (answer.status_code, answer.json()) == (
        500,
        {"error": "Internal server error"},
    )
    [line] = alone.requests
    assert line["requestId"] == answer.headers["X-Request-ID"]
    assert "FileNotFoundError" in line["exception"]


def test_a_taken_port_stops_the_start_with_a_sentence(service_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bind = f"127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.run(
            [sys.executable, "-m", "gunicorn"],
            cwd=ROOT,
            env={
                **os.environ,
                **ANY_PORT,
                "METRICS_BIND": bind,
                "DATABASE_URL": service_url,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert process.returncode == 1
    said = process.stderr.splitlines()[-1]
    assert said.startswith(f"Cannot listen at {bind}: Address already in use")
    assert said.endswith("or choose another: METRICS_BIND=127.0.0.1:9465")


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_it_listens_on_ipv6(service_url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = {**ANY_PORT, "METRICS_BIND": "[::1]:0", "DATABASE_URL": service_url}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stderr=stderr,
        )
    try:
        said = re.compile(r"Metrics at (http://\[::1\]:\d+/)metrics")
        wait_until(lambda: said.search(log.read_text()) is not None)
        [url] = said.findall(log.read_text())
        assert requests.get(f"{url}healthz", timeout=60).ok
    finally:
        process.terminate()
        process.wait(60)


def test_the_shared_folder_is_memory_and_is_gone_at_the_end(
    service_url: str, tmp_path: Path
) -> None:
    with run_service(tmp_path / "log", DATABASE_URL=service_url) as service:
        folder = shared_folder(service)
        wait_until(lambda: any(folder.iterdir()))
    assert not folder.exists()
