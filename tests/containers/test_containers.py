"""The service in containers, as it is shipped: two replicas behind nginx."""

import json
import re
from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from tests.support.callers import CLIENTS, IDENTIFIERS, Callers
from tests.support.compose_project import (
    COMPOSE_FILE,
    Project,
    base_image,
    get,
    health,
    project,
    requests,
)
from tests.support.service import PATH
from tests.support.waiting import wait_until

pytestmark = pytest.mark.containers

EXAMPLE = {
    "SN-A100": {"firmwareVersion": "3.2.1", "status": "active"},
    "SN-B200": {"firmwareVersion": "3.2.1", "status": "maintenance"},
    "SN-UNKNOWN": {"status": "active"},
}


@pytest.fixture(scope="module")
def site() -> Iterator[Project]:
    with project(replicas=2) as site:
        yield site


@pytest.fixture(scope="module")
def callers(site: Project, tmp_path_factory: pytest.TempPathFactory) -> Callers:
    """Clients of an organization, whose devices exist."""
    file = tmp_path_factory.mktemp("devices") / "devices.csv"
    file.write_text("\n".join(["identifier", "SN-A100", "SN-B200", *IDENTIFIERS]))
    site.flask("create-organization", "Acme")
    mount = ("--volume", f"{file}:/devices.csv:ro")
    site.flask("import-devices", "Acme", "/devices.csv", options=mount)
    return Callers(site.port, create_key(site))


def create_key(site: Project) -> str:
    return site.flask("create-key", "Acme", "--name", "tests").split()[-1]


def metadata(site: Project) -> dict[str, object]:
    """Return what PostgreSQL holds."""
    rows = site.run(
        "exec", "-T", "postgres", "psql", "--username=postgres", "bulk_metadata",
        "--no-align", "--tuples-only", "--command",
        "SELECT jsonb_object_agg(identifier, device_metadata) FROM devices",
    )  # fmt: skip
    stored: dict[str, object] = json.loads(rows)
    return stored


def in_container(container: Container, command: str) -> tuple[int | None, str]:
    code, output = container.exec_run(["sh", "-c", command])
    assert isinstance(output, bytes)
    return code, output.decode()


def wait_until_healthy(replica: Container) -> None:
    wait_until(lambda: health(replica) == "healthy", "health")


def statuses(replica: Container) -> list[int]:
    """Return the statuses of the calls that it has answered."""
    return [line["status"] for line in requests(replica) if line["path"] == PATH]


def test_all_build_on_the_same_image() -> None:
    assert f"${{BASE_IMAGE:-{base_image()}}}" in COMPOSE_FILE.read_text()


def test_the_example_through_nginx(site: Project, callers: Callers) -> None:
    answer = callers.post(EXAMPLE)
    assert answer.status == 200
    assert (answer.json["updated"], answer.json["notFound"]) == (2, 1)
    assert [(r["identifier"], r["status"]) for r in answer.json["results"]] == [
        ("SN-A100", "updated"),
        ("SN-B200", "updated"),
        ("SN-UNKNOWN", "not_found"),
    ]
    stored = metadata(site)
    assert stored["SN-A100"] == {"firmwareVersion": "3.2.1", "status": "active"}
    assert stored["SN-B200"] == {"firmwareVersion": "3.2.1", "status": "maintenance"}
    assert "SN-UNKNOWN" not in stored


def test_the_service_cannot_write_and_is_nobody(site: Project) -> None:
    for replica in site.replicas:
        assert in_container(replica, "id -u") == (0, "10001\n")
        for place in ("/srv/x", "/venv/x", "/x", "/etc/x"):
            code, output = in_container(replica, f"touch {place}")
            assert (code, "Read-only file system" in output) == (1, True)
        assert in_container(replica, "touch /tmp/x") == (0, "")
        status = in_container(replica, "cat /proc/1/status")[1]
        assert re.search(r"^CapBnd:\s+0+$", status, re.M)
        assert re.search(r"^NoNewPrivs:\s+1$", status, re.M)
        # What is told to end is gunicorn itself.
        assert "gunicorn" in in_container(replica, "cat /proc/1/cmdline")[1]


def test_the_service_can_do_no_more_than_its_role(site: Project) -> None:
    code, output = in_container(site.replicas[0], "flask create-organization Globex")
    assert code == 1
    assert "permission denied for table organizations" in output


def test_the_replicas_are_healthy(site: Project) -> None:
    for replica in site.replicas:
        wait_until_healthy(replica)


def test_a_revoked_key_stops_working_on_all_replicas_at_once(
    site: Project, callers: Callers
) -> None:
    mortal = Callers(site.port, create_key(site))
    assert {mortal.post(EXAMPLE).status for _ in range(20)} == {200}
    key_id = requests(site.replicas[0])[-1]["keyId"]
    site.flask("revoke-key", key_id)
    assert {mortal.post(EXAMPLE).status for _ in range(20)} == {401}
    for replica in site.replicas:
        assert {200, 401} <= set(statuses(replica))


def test_replicas_that_are_replaced_one_by_one_fail_no_call(
    site: Project, callers: Callers
) -> None:
    with callers.calling():
        for replica in site.replicas:
            replica.stop(timeout=60)
            replica.reload()
            assert replica.attrs["State"]["ExitCode"] == 0
            callers.wait_for_more()
            come_back(replica)
    callers.check(metadata(site))
    assert callers.broken_off == 0


def test_a_replica_that_is_killed_fails_no_call(
    site: Project, callers: Callers
) -> None:
    """But those whose answers it had begun to send: nobody can take these back."""
    replica = site.replicas[0]
    before = callers.broken_off
    with callers.calling():
        replica.kill()
        callers.wait_for_more()
        come_back(replica)
    callers.check(metadata(site))
    assert callers.broken_off - before <= CLIENTS


def come_back(replica: Container) -> None:
    """Start it again, and wait until nginx sends it calls."""
    replica.start()
    wait_until_healthy(replica)
    before = len(statuses(replica))
    wait_until(lambda: len(statuses(replica)) > before, "calls")


def test_prometheus_finds_all_replicas_and_the_alerts(
    site: Project, callers: Callers
) -> None:
    site.watch("prometheus")
    assert callers.post(EXAMPLE).status == 200
    url = f"http://127.0.0.1:{site.prometheus_port}/api/v1"

    def query(expression: str) -> list[str]:
        answer = get(f"{url}/query?query={expression}") or {"data": {"result": []}}
        return [result["value"][1] for result in answer["data"]["result"]]

    wait_until(lambda: query('up{job="bulk-metadata"}') == ["1", "1"], "two targets")
    assert query("count(bulk_metadata_build_info)") == ["2"]
    [calls] = query('sum(bulk_metadata_requests_total{status="200"})')
    assert float(calls) > 0
    [group] = get(f"{url}/rules")["data"]["groups"]
    assert "BulkMetadataDown" in [rule["name"] for rule in group["rules"]]


def test_grafana_has_the_dashboard(site: Project) -> None:
    site.watch("grafana")
    url = f"http://127.0.0.1:{site.grafana_port}/api/search?type=dash-db"

    def titles() -> list[str]:
        return [dashboard["title"] for dashboard in get(url) or []]

    wait_until(lambda: titles() == ["Bulk device metadata"], "the dashboard")
