"""The dashboard and the alerts, with what the service really exports."""

import json
import math
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import Organization
from tests.service import ROOT, Service, free_port, run_service

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "bulk-metadata.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PANELS = json.loads(DASHBOARD.read_text())["panels"]
VARIABLES = json.loads(DASHBOARD.read_text())["templating"]["list"]

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus is not installed",
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
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    assert "6 rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yml")


@pytest.fixture
def called(
    service_url: str, acme: Organization, tmp_path: Path
) -> Iterator[tuple[Service, Callable[[], None]]]:
    """A service of the test's own, and what calls it, once each way."""
    acme.insert("SN-1")
    with run_service(tmp_path / "log", DATABASE_URL=service_url) as service:

        def call() -> None:
            body = '{"devices": {"SN-1": {}, "SN-2": {}}}'
            assert service.request(body, {"x-api-key": acme.key}).status == 200
            assert service.request(body).status == 401

        call()
        yield service, call


def scraped(service: Service) -> str:
    return requests.get(
        f"http://127.0.0.1:{service.operations_port}/metrics", timeout=10
    ).text


def test_what_they_ask_for_is_exported(
    called: tuple[Service, Callable[[], None]],
) -> None:
    text = DASHBOARD.read_text() + ALERTS.read_text()
    names = set(re.findall(r"\bbulk_metadata_\w+", text))
    assert len(names) >= 12
    found = set(re.findall(r"^\w+", scraped(called[0]), re.MULTILINE))
    assert names <= found


@needs_prometheus
def test_prometheus_finds_nothing_to_mend(
    called: tuple[Service, Callable[[], None]],
) -> None:
    assert promtool("check", "metrics", stdin=scraped(called[0])) == ""


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return what it says."""
        answer = requests.get(self._url + path, params=parameters, timeout=10).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def has_numbers(self, expression: str) -> bool:
        """Tell if the expression has a result, and not only that nothing is known."""
        found = self.ask("query", query=expression)["result"]
        return any(not math.isnan(float(each["value"][1])) for each in found)


@pytest.fixture
def prometheus(
    called: tuple[Service, Callable[[], None]], tmp_path: Path
) -> Iterator[Prometheus]:
    """One that looks at the service, which is called all the while."""
    service, call = called
    configuration = {
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "bulk-metadata",
                "static_configs": [
                    {"targets": [f"127.0.0.1:{service.operations_port}"]}
                ],
            }
        ],
    }
    file = tmp_path / "prometheus.yml"
    # JSON is YAML as well.
    file.write_text(json.dumps(configuration))
    port = free_port()
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    done = threading.Event()

    def keep_calling() -> None:
        while not done.wait(0.05):
            call()

    caller = threading.Thread(target=keep_calling)
    caller.start()
    try:
        wait_until(lambda: answers(port), "Prometheus")
        yield Prometheus(port)
    finally:
        done.set()
        caller.join()
        process.terminate()
        process.wait(60)


def answers(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=10).ok
    except requests.ConnectionError:
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError(what)


@needs_prometheus
def test_every_query_of_the_dashboard_has_an_answer(prometheus: Prometheus) -> None:
    expressions = [target["expr"] for panel in PANELS for target in panel["targets"]]
    assert len(expressions) >= len(PANELS) > 10
    for expression in expressions:
        asked = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
        assert "$" not in asked
        wait_until(lambda asked=asked: prometheus.has_numbers(asked), asked)  # type: ignore[misc]
    [source, instance] = VARIABLES
    assert source["type"] == "datasource"
    assert instance["query"] == "label_values(bulk_metadata_build_info, instance)"
    values = prometheus.ask(
        "label/instance/values", **{"match[]": "bulk_metadata_build_info"}
    )
    assert len(values) == 1


@needs_prometheus
def test_every_alert_can_be_evaluated(prometheus: Prometheus) -> None:
    def rules() -> list[Any]:
        [group] = prometheus.ask("rules")["groups"]
        return list(group["rules"])

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()), "rules")
    assert {(rule["health"], rule.get("lastError")) for rule in rules()} == {
        ("ok", None)
    }
    # One of two identifiers is unknown, and that is not more than half of them.
    assert {rule["state"] for rule in rules()} == {"inactive"}
    readme = (ROOT / "README.md").read_text()
    assert {rule["annotations"]["runbook"] for rule in rules()} == {
        "README.md#when-something-is-wrong"
    }
    assert re.search("^##+ When something is wrong$", readme, re.MULTILINE)
