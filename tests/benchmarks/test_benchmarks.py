import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click import ClickException
from psycopg2.extensions import cursor as Cursor

from benchmarks import __main__ as bench
from benchmarks import alternatives, push
from benchmarks.alternatives import ALTERNATIVES, Alternative, InstallationError
from benchmarks.breakdown import REMAINDER, break_down
from benchmarks.client import Client, ResponseError
from benchmarks.database import Fleet, body, documents
from benchmarks.load import generator
from benchmarks.load.generator import Target
from benchmarks.load.workloads import Workload, measure_load
from benchmarks.measure import over_http, sample
from benchmarks.memory import Memory
from benchmarks.report.results import memory_goals
from tests.conftest import Organization
from tests.support.service import ROOT, Service
from tests.support.waiting import free_port

pytestmark = pytest.mark.benchmarks


def run_module(*arguments: str) -> str:
    process = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def text_of(svg: Path) -> str:
    # S314: the benchmark wrote this file.
    return "|".join(ET.parse(svg).getroot().itertext()).replace("\xa0", " ")  # noqa: S314


def test_benchmark_reports_all_sections(tmp_path: Path) -> None:
    output = run_module("benchmarks", "--effort", "least", str(tmp_path))
    report = (tmp_path / "RESULTS.md").read_text()
    assert report in output
    assert re.findall(r"^## (.+)$", report, re.M) == [
        *("Goals", "Baseline", "Load", "Breakdown", "History", "Citus", "Memory")
    ]
    assert "| all requests: no errors | 0 errors | yes |" in report
    assert re.search(r"^\| run the UPDATE .+ \d+\.\d+ \(\d+%\) \|$", report, re.M)
    plot = text_of(tmp_path / "results.svg")
    for alternative in ALTERNATIVES:
        if not alternative.runs_on_node:  # Node is optional
            assert f"| 1 device | {alternative.title} |" in report
            assert alternative.title in plot


def test_push_benchmark_measures_all_steps() -> None:
    output = run_module("benchmarks.push", "--devices", "1500", "--rounds", "1")
    for step in ("check, NDJSON", "check, CSV", "push", "import", "export"):
        assert re.search(rf"^\| {step}.* \| [\d.]+ \| [\d,]+ \| \d+ \|$", output, re.M)
    for baseline in ("UPDATE", "COPY"):
        assert re.search(rf": {baseline} \| [\d.]+ \| [\d,]+ \|  \|$", output, re.M)


def test_screenshot_shows_progress_and_summary(tmp_path: Path) -> None:
    svg = tmp_path / "push.svg"
    run_module("benchmarks.screenshot", "--devices", "2000", str(svg))
    text = text_of(svg).replace("|", "")
    for part in ("$ bulk-metadata push fleet.csv", "Sending", "2,000", "not found"):
        assert part in text
    assert "url(http" not in svg.read_text()


@pytest.fixture
def fleet(acme: Organization) -> Fleet:
    acme.insert(*documents(range(10)))
    return Fleet(10, acme.id, acme.key)


def test_failed_command_aborts_benchmark() -> None:
    with pytest.raises(ClickException, match=r"check failed with exit code 2\.$"):
        push.run_client("check")


def test_request_with_unknown_device_aborts_benchmark(
    fleet: Fleet, service: Service
) -> None:
    with Client(service.port, fleet.key) as client:
        assert 0 < over_http(client)(fleet.documents(10)) < 60
        with pytest.raises(
            RuntimeError, match=r"^Expected 2 updated devices, got 1\.$"
        ):
            over_http(client)(documents([9, 10]))


def test_client_raises_for_closed_connection(fleet: Fleet, service: Service) -> None:
    with Client(service.port, f"{fleet.key}\r\nConnection: close") as client:
        client.send(body(fleet.documents(1)))
        with pytest.raises(OSError, match=r"closed the connection|Broken pipe|reset"):
            client.send(body(fleet.documents(1)))


@pytest.mark.parametrize("wrk", [generator.WRK, None])
def test_load_counts_requests_and_errors(
    wrk: str | None,
    fleet: Fleet,
    service: Service,
    cursor: Cursor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator, "WRK", wrk)
    target = Target(service.port, service.process.pid)
    for workload in (Workload(1), Workload(1, overlapping=True)):
        load = measure_load({"service": target}, fleet, workload, 1, 1, cursor)
        found = load["service"]
        assert found.errors == 0
        assert min(found.rate, found.p50, found.application_ms, found.generator_ms) > 0
    with pytest.raises(ResponseError, match="401"):
        measure_load(
            {"service": target}, Fleet(10, "", "wrong"), Workload(1), 1, 1, cursor
        )
    burst = generator.send_burst(target, "wrong", [body(documents([1]))], 1, cursor)
    assert burst.requests == 0
    assert burst.errors > 0


def test_sample_contains_median_and_99th_percentile() -> None:
    found = sample([*range(100, 0, -1), 1000.0])
    assert (found.median, found.p99) == (51, 100)


def test_breakdown_divides_duration_by_samples() -> None:
    stacks = """thread (1): MainThread;select (selectors.py:468) 10
thread (2): a;authenticate (bulk_metadata/api/a.py:1);run (bulk_metadata/db/pool.py:1) 2
thread (2): a;run (bulk_metadata/db/pool.py:1) 5
thread (2): a;wait_for_head (bulk_metadata/server/request_reader.py:73) 3
"""
    found = {step: time for step, time in break_down(stacks, 2.0).items() if time}
    assert found == {
        "look up the API key (psycopg2, PostgreSQL)": 0.4,
        "run the UPDATE (psycopg2, PostgreSQL)": 1.0,
        REMAINDER: pytest.approx(0.6),
    }


def test_missed_memory_goals_are_reported() -> None:
    for memory, reached in (
        (Memory(61, 1, 72, 10, 113), False),
        (Memory(60, 1, 70, 10, 110), True),
    ):
        assert [goal.reached for goal in memory_goals(memory)] == [reached] * 3


@pytest.fixture
def alternative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Alternative:
    monkeypatch.setattr(alternatives, "ENVIRONMENTS", tmp_path)
    (tmp_path / "requirements.txt").write_text("no such package\n")
    return Alternative("example", "Example", tmp_path)


def test_alternative_with_failed_installation_is_skipped(
    alternative: Alternative,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(bench, "ALTERNATIVES", [alternative])
    with bench.run_alternatives("postgresql://", tmp_path) as targets:
        assert list(targets) == [alternatives.EMPTY_VIEW.title]
    assert "Skipped: Example could not be installed:\n" in capsys.readouterr().out


def test_alternative_requires_npm(
    alternative: Alternative, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("package.json", "package-lock.json"):
        (alternative.directory / name).touch()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InstallationError, match=r"^Example requires npm, which is not"):
        alternatives.install(alternative)


def test_alternative_is_installed_again_after_requirements_change(
    alternative: Alternative, capsys: pytest.CaptureFixture[str]
) -> None:
    requirements = alternative.directory / "requirements.txt"
    requirements.write_text("# no packages\n")
    for expected in ("Installing Example ...\n", ""):
        alternatives.install(alternative)
        assert capsys.readouterr().out == expected
    stamp = (alternative.environment / "installed").stat().st_mtime
    os.utime(requirements, (stamp + 1, stamp + 1))
    alternatives.install(alternative)
    assert capsys.readouterr().out == "Installing Example ...\n"


def test_alternative_start_failure_is_reported(
    alternative: Alternative, service: Service, tmp_path: Path
) -> None:
    start = alternative.directory / "start"
    start.write_text('#!/bin/sh\necho "WORKERS is $WORKERS"; exit 1\n')
    start.chmod(0o755)
    for port, message in (
        (free_port(), r"^Example did not start:\nWORKERS is 2$"),
        (service.port, rf"^Port {service.port} is already in use\.$"),
    ):
        with (
            pytest.raises(RuntimeError, match=message),
            alternatives.run(alternative, "postgresql://", port, tmp_path / "log"),
        ):
            pass


def test_alternatives_pin_their_packages() -> None:
    for alternative in ALTERNATIVES:
        if alternative.runs_on_node:
            lock = (alternative.directory / "package-lock.json").read_text()
            packages = json.loads(lock)["packages"]
            assert all(each["version"] for name, each in packages.items() if name)
        else:
            text = (alternative.directory / "requirements.txt").read_text()
            lines = [line for line in text.splitlines() if line and line[0] != "#"]
            assert lines
            assert all("==" in line for line in lines)
