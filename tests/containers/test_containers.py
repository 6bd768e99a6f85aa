"""The service in containers: two replicas behind nginx."""

import json
import re
from typing import Any
from urllib.request import urlopen

import pytest
from docker.models.containers import Container

from tests.containers.conftest import BASE_IMAGE, COMPOSE_FILE, Project
from tests.support.concurrent_clients import CLIENTS, IDENTIFIERS, ConcurrentClients
from tests.support.service import PATH
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow(reason="starts and stops containers")

EXAMPLE = {
    "SN-A100": {"firmwareVersion": "3.2.1", "status": "active"},
    "SN-B200": {"firmwareVersion": "3.2.1", "status": "maintenance"},
    "SN-UNKNOWN": {"status": "active"},
}


@pytest.fixture(scope="module")
def clients(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> ConcurrentClients:
    """Clients of an organization with devices."""
    file = tmp_path_factory.mktemp("devices") / "devices.csv"
    file.write_text("\n".join(["identifier", "SN-A100", "SN-B200", *IDENTIFIERS]))
    project.flask("create-organization", "Acme")
    volume = ("--volume", f"{file}:/devices.csv:ro")
    project.flask("import-devices", "Acme", "/devices.csv", options=volume)
    return ConcurrentClients(project.port, create_key(project))


def create_key(project: Project) -> str:
    return project.flask("create-key", "Acme", "--name", "tests").split()[-1]


def metadata(project: Project) -> dict[str, Any]:
    """Return the metadata of all devices."""
    text = project.run(
        "exec", "-T", "postgres", "psql", "--username=postgres", "bulk_metadata",
        "--no-align", "--tuples-only", "--command",
        "SELECT jsonb_object_agg(identifier, device_metadata) FROM devices",
    )  # fmt: skip
    stored: dict[str, Any] = json.loads(text)
    return stored


def execute(container: Container, command: str) -> tuple[int | None, str]:
    """Run a shell command in a container. Return its exit code and its output."""
    code, output = container.exec_run(["sh", "-c", command])
    assert isinstance(output, bytes)
    return code, output.decode()


def requests(replica: Container) -> list[dict[str, Any]]:
    """Return the requests in the access log, without those of health checks."""
    lines = replica.logs(stdout=True, stderr=False).decode().splitlines()
    return [line for line in map(json.loads, lines) if line["path"] == PATH]


def wait_until_healthy(replica: Container) -> None:
    def is_healthy() -> bool:
        replica.reload()
        return bool(replica.attrs["State"]["Health"]["Status"] == "healthy")

    wait_until(is_healthy, "a healthy replica")


def restart(replica: Container) -> None:
    """Start a stopped replica, and wait until nginx sends it requests."""
    before = len(requests(replica))
    replica.start()
    wait_until_healthy(replica)
    wait_until(lambda: len(requests(replica)) > before, "requests")


def test_dockerfile_and_compose_file_name_same_base_image() -> None:
    assert f"${{BASE_IMAGE:-{BASE_IMAGE}}}" in COMPOSE_FILE.read_text()


def test_example_request_works_through_nginx(
    project: Project, clients: ConcurrentClients
) -> None:
    response = clients.post(EXAMPLE)
    assert response.status == 200
    assert [(r["identifier"], r["status"]) for r in response.json["results"]] == [
        ("SN-A100", "updated"),
        ("SN-B200", "updated"),
        ("SN-UNKNOWN", "not_found"),
    ]
    stored = metadata(project)
    assert stored["SN-A100"] == EXAMPLE["SN-A100"]
    assert stored["SN-B200"] == EXAMPLE["SN-B200"]
    assert "SN-UNKNOWN" not in stored


def test_container_is_read_only_and_unprivileged(project: Project) -> None:
    for replica in project.replicas:
        assert execute(replica, "id -u") == (0, "10001\n")
        for path in ("/srv/x", "/venv/x", "/x", "/etc/x"):
            code, output = execute(replica, f"touch {path}")
            assert (code, "Read-only file system" in output) == (1, True)
        assert execute(replica, "touch /tmp/x") == (0, "")
        status = execute(replica, "cat /proc/1/status")[1]
        assert re.search(r"^CapBnd:\s+0+$", status, re.M)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
        # gunicorn itself receives SIGTERM.
        assert "gunicorn" in execute(replica, "cat /proc/1/cmdline")[1]


def test_service_connects_with_its_role(project: Project) -> None:
    code, output = execute(project.replicas[0], "flask create-organization Globex")
    assert code == 1
    assert "permission denied for table organizations" in output


def test_replicas_become_healthy(project: Project) -> None:
    for replica in project.replicas:
        wait_until_healthy(replica)


def test_key_revoked_by_command_is_rejected_by_all_replicas(
    project: Project, clients: ConcurrentClients
) -> None:
    with ConcurrentClients(project.port, create_key(project)) as revoked:
        assert {revoked.post(EXAMPLE).status for _ in range(20)} == {200}
        key_id = requests(project.replicas[0])[-1]["keyId"]
        project.flask("revoke-key", key_id)
        assert {revoked.post(EXAMPLE).status for _ in range(20)} == {401}
    for replica in project.replicas:
        assert {200, 401} <= {line["status"] for line in requests(replica)}


def test_rolling_restart_fails_no_request(
    project: Project, clients: ConcurrentClients
) -> None:
    with clients.writing():
        for replica in project.replicas:
            replica.stop(timeout=60)
            replica.reload()
            assert replica.attrs["State"]["ExitCode"] == 0
            clients.wait_for_more()
            restart(replica)
    assert set(clients.statuses) == {200}
    clients.check(metadata(project))


def test_killed_container_fails_no_request(
    project: Project, clients: ConcurrentClients
) -> None:
    """Responses that have started break off."""
    replica = project.replicas[0]
    with clients.writing():
        replica.kill()
        clients.wait_for_more()
        restart(replica)
    assert set(clients.statuses) == {200}
    clients.check(metadata(project), broken=CLIENTS)


def get(url: str) -> Any:
    """Return the JSON at ``url``, or None if there is no response yet."""
    try:
        with urlopen(url, timeout=10) as response:  # noqa: S310  # a container's URL
            return json.load(response)
    except OSError:
        return None


def test_prometheus_scrapes_all_replicas(
    project: Project, clients: ConcurrentClients
) -> None:
    project.start("prometheus")
    assert clients.post(EXAMPLE).status == 200
    url = f"http://127.0.0.1:{project.prometheus_port}/api/v1"

    def query(expression: str) -> list[str]:
        response = get(f"{url}/query?query={expression}") or {"data": {"result": []}}
        return [result["value"][1] for result in response["data"]["result"]]

    wait_until(lambda: query('up{job="bulk-metadata"}') == ["1", "1"], "two targets")
    assert query("count(bulk_metadata_build_info)") == ["2"]
    [total] = query('sum(bulk_metadata_requests_total{status="200"})')
    assert float(total) > 0
    [group] = get(f"{url}/rules")["data"]["groups"]
    assert "BulkMetadataDown" in [rule["name"] for rule in group["rules"]]


def test_grafana_has_the_dashboard(project: Project) -> None:
    project.start("grafana")
    url = f"http://127.0.0.1:{project.grafana_port}/api/search?type=dash-db"

    def titles() -> list[str]:
        return [dashboard["title"] for dashboard in get(url) or []]

    wait_until(lambda: titles() == ["Bulk device metadata"], "the dashboard")
