"""The dashboard and the alerts, with the metrics of a running service."""

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Organization, connect
from tests.support.concurrent_clients import repeat
from tests.support.service import ROOT, Response, Service, run_service
from tests.support.waiting import free_port, wait_until

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "bulk-metadata.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PANELS = {
    panel["title"]: panel for panel in json.loads(DASHBOARD.read_text())["panels"]
}
VARIABLES = json.loads(DASHBOARD.read_text())["templating"]["list"]

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="monitoring. To test it: apt-get install prometheus",
)


def promtool(*arguments: str, stdin: str = "") -> str:
    process = subprocess.run(
        ["promtool", *arguments],
        cwd=ALERTS.parent,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


@needs_prometheus
def test_alerts_pass_their_promtool_tests() -> None:
    assert "7 rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


def test_dashboard_has_no_gaps_and_all_descriptions() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(PANELS) == len(panels)
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = max(y for _, y in covered) + 1
    # The grid of Grafana has 24 columns.
    assert sorted(covered) == [(x, y) for x in range(24) for y in range(height)]
    for panel in panels:
        assert panel["description"].endswith(".")
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
        # Without options, Grafana uses an early version of the heatmap, which sorts
        # buckets into buckets.
        assert panel.get("options") or panel["type"] != "heatmap"


@pytest.fixture
def service(service_url: str, acme: Organization, tmp_path: Path) -> Iterator[Service]:
    """A dedicated service, whose metrics only this test changes."""
    acme.insert("SN-1")
    settings = {"DATABASE_URL": service_url, "WORKERS": "2"}
    with run_service(tmp_path / "log", **settings) as service:
        yield service


@pytest.fixture
def call(service: Service, acme: Organization) -> Callable[[], None]:
    """Return a function that sends a valid and an unauthorized request."""

    def call() -> None:
        body = '{"devices": {"SN-1": {}, "SN-2": {}}}'
        assert service.request(body, {"x-api-key": acme.key}).status == 200
        assert service.request(body).status == 401

    return call


def scraped(service: Service) -> str:
    return requests.get(
        f"http://127.0.0.1:{service.metrics_port}/metrics", timeout=10
    ).text


def test_dashboard_and_alerts_use_exported_metrics(
    service: Service, call: Callable[[], None]
) -> None:
    call()
    text = DASHBOARD.read_text() + ALERTS.read_text()
    names = set(re.findall(r"\bbulk_metadata_\w+", text))
    assert len(names) >= 12
    found = set(re.findall(r"^\w+", scraped(service), re.MULTILINE))
    assert names <= found


@needs_prometheus
def test_metrics_pass_promtool(service: Service, call: Callable[[], None]) -> None:
    call()
    assert promtool("check", "metrics", stdin=scraped(service)) == ""


class Prometheus:
    """A running Prometheus server."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def query(self, path: str, **parameters: str) -> Any:
        response = requests.get(self._url + path, params=parameters, timeout=10).json()
        assert response["status"] == "success", response
        return response["data"]

    def numbers(self, expression: str) -> list[float]:
        """Return the results of an expression, without NaN (0 / 0)."""
        found = self.query("query", query=expression)["result"]
        numbers = [float(each["value"][1]) for each in found]
        return [number for number in numbers if not math.isnan(number)]

    def rules(self) -> list[Any]:
        [group] = self.query("rules")["groups"]
        return list(group["rules"])

    def active_alerts(self) -> set[str]:
        """Return the names of the pending and firing alerts."""
        return {rule["name"] for rule in self.rules() if rule["state"] != "inactive"}


@contextmanager
def run_prometheus(service: Service, directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the service every 200 ms."""
    configuration = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "bulk-metadata",
                "static_configs": [{"targets": [f"127.0.0.1:{service.metrics_port}"]}],
            }
        ],
    }
    file = directory / "prometheus.yml"
    # JSON is a subset of YAML.
    file.write_text(json.dumps(configuration))
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={directory / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    try:
        wait_until(lambda: is_ready(port), "Prometheus")
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=10).ok
    except requests.ConnectionError:
        return False


def resolved(expression: str) -> str:
    """Return an expression of the dashboard with the variables of Grafana replaced."""
    expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
    assert "$" not in expression
    return expression


@pytest.mark.slow(reason="Prometheus needs samples of several seconds")
@needs_prometheus
def test_dashboard_queries_have_results(
    service: Service, call: Callable[[], None], tmp_path: Path
) -> None:
    expressions = [
        resolved(target["expr"])
        for panel in PANELS.values()
        for target in panel["targets"]
    ]
    assert len(expressions) >= len(PANELS) > 10
    with repeat(lambda _: call(), 1), run_prometheus(service, tmp_path) as prometheus:
        for expression in expressions:
            wait_until(
                lambda expression=expression: prometheus.numbers(expression) != [],  # type: ignore[misc]
                expression,
            )
        [source, instance] = VARIABLES
        assert source["type"] == "datasource"
        assert instance["query"] == "label_values(bulk_metadata_build_info, instance)"
        values = prometheus.query(
            "label/instance/values", **{"match[]": "bulk_metadata_build_info"}
        )
        assert len(values) == 1
        wait_until(
            lambda: all(rule["health"] != "unknown" for rule in prometheus.rules()),
            "the evaluation of the rules",
        )
        assert {
            (rule["health"], rule.get("lastError")) for rule in prometheus.rules()
        } == {("ok", None)}
        # One of two identifiers is unknown, which is not more than half.
        assert prometheus.active_alerts() == set()


@pytest.mark.slow(reason="Prometheus needs samples of several seconds")
@needs_prometheus
def test_held_lock_activates_alerts(
    service_url: str, acme: Organization, owner_url: str, tmp_path: Path
) -> None:
    acme.insert("SN-1")
    # One worker, so that both connections are always in use: two requests wait for the
    # lock, two for a connection, and the others for a thread.
    settings = {"WORKERS": "1", "POOL_SIZE": "2", "LOCK_TIMEOUT": "5"}
    expected = {
        "BulkMetadataErrors",
        "BulkMetadataSlow",
        "BulkMetadataPoolExhausted",
        "BulkMetadataPoolBusy",
    }
    with (
        closing(connect(owner_url)) as other,
        run_service(tmp_path / "log", DATABASE_URL=service_url, **settings) as service,
    ):

        def call() -> Response:
            return service.request('{"devices": {"SN-1": {}}}', {"x-api-key": acme.key})

        other.cursor().execute("BEGIN; SELECT FROM devices FOR UPDATE")
        with repeat(lambda _: call(), 12):
            # The alert uses an average, which must not include the idle start.
            wait_until(
                lambda: "bulk_metadata_pool_in_use 2.0" in scraped(service), "all busy"
            )
            with run_prometheus(service, tmp_path) as prometheus:
                wait_until(lambda: prometheus.active_alerts() == expected, "the alerts")
                for title in "Share of 500 responses", "Pool timeouts per minute":
                    [target] = PANELS[title]["targets"]
                    [number] = prometheus.numbers(resolved(target["expr"]))
                    assert number > 0
            # Let the waiting requests complete before their timeout.
            other.cursor().execute("ROLLBACK")


def test_alerts_refer_to_runbook() -> None:
    links = re.findall(r"runbook: \"(.+)\"", ALERTS.read_text())
    assert set(links) == {"docs/operations.md#symptoms"}
    runbook = (ROOT / "docs" / "operations.md").read_text()
    assert re.search("^##+ Symptoms$", runbook, re.MULTILINE)
