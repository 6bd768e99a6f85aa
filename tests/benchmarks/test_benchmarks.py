"""The benchmark runs, measures what it says, and stops when there is nothing to."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click import ClickException

from benchmarks import comparison, peers, push
from benchmarks.client import Client, Refused
from benchmarks.fleet import Fleet, body, documents
from benchmarks.load import Bursts, measure_load
from benchmarks.measure import over_http, sample
from benchmarks.memory import Memory
from benchmarks.peers import Missing, Peer
from benchmarks.results import goals_of_resources
from benchmarks.storage import Storage
from tests.conftest import Organization
from tests.support.service import ROOT, Service, free_port

pytestmark = pytest.mark.benchmarks


def test_the_least_of_it(tmp_path: Path) -> None:
    """All parts of it, peers included, on fleets of a few devices."""
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--effort", "least", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout
    report = (tmp_path / "RESULTS.md").read_text()
    assert report in process.stdout
    sections = ("Goals", "The limit", "The budget", "Peers", "Memory", "Storage")
    assert all(f"\n## {section}\n" in report for section in sections)
    # What does not depend on speed: the service never fails, however clients overlap.
    assert "| 8 clients: no error, whether they overlap or not | 0, " in report
    # S314: the file is our own.
    svg = ET.parse(tmp_path / "results.svg")  # noqa: S314
    written = {element.text for element in svg.iter()}
    assert "this service" in written
    assert "Not to be had here: " in report
    for peer in peers.PEERS:
        assert (f"| {peer.title} |" in report) == (peer.title in written)
        # Only Node may be missing where there is Python and a network.
        assert peer.title in written or peer.runs_on_node


def test_a_fleet_is_pushed_beside_bare_statements() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.push", "--devices", "1500", "--rounds", "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stdout
    *_, bare, summary, client = process.stdout.splitlines()
    assert re.fullmatch(r"bare statements +[\d.]+ s", bare)
    assert json.loads(summary)["summary"]["updated"] == 1500
    assert re.fullmatch(
        r"client +[\d.]+ s, [\d.]+ x, [\d,]+ devices/s, \d+ MiB at most", client
    )


def test_a_push_that_fails_is_no_figure(
    fleet: Fleet, service: Service, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.ndjson"
    push.write_file(fleet, file)
    with pytest.raises(ClickException, match=r"^The client ended with 1\.$"):
        push.time_push(file, service.port, "wrong")


def test_the_terminal_of_a_push_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "push.svg"
    subprocess.run(
        [sys.executable, "-m", "benchmarks.picture", "--devices", "2000", picture],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=300,
    )
    # S314: the file is our own.
    written = "".join(ET.parse(picture).getroot().itertext())  # noqa: S314
    shown = written.replace("\xa0", " ")
    assert "$ python -m bulk_metadata.client push fleet.csv --url " in shown
    assert "Sending" in shown
    assert "2,000 updated" in shown
    assert "1 not found" in shown
    # It loads nothing from elsewhere.
    assert "url(http" not in picture.read_text()


@pytest.fixture
def fleet(acme: Organization) -> Fleet:
    acme.insert(*documents(list(range(10))))
    return Fleet(10, acme.id, acme.key)


def test_documents_are_of_the_usual_size(fleet: Fleet) -> None:
    found = fleet.documents(10)
    assert found.keys() == documents(list(range(10))).keys()
    assert all(180 < len(text) < 240 for text in found.values())
    assert found != fleet.documents(10)


def test_a_call_is_measured(fleet: Fleet, service: Service) -> None:
    with Client(service.port, fleet.key) as client:
        assert 0 < over_http(client)(fleet.documents(10)) < 60


def test_a_call_that_updates_too_few_devices_stops_the_run(
    fleet: Fleet, service: Service
) -> None:
    with (
        Client(service.port, fleet.key) as client,
        pytest.raises(RuntimeError, match=r"^1 of 2 devices were updated\.$"),
    ):
        over_http(client)(documents([9, 10]))


def test_a_refusal_is_no_answer(fleet: Fleet, service: Service) -> None:
    with Client(service.port, "wrong") as client, pytest.raises(Refused, match="401"):
        client.call(body(fleet.documents(1)))


def test_a_connection_that_ends_is_no_answer(fleet: Fleet, service: Service) -> None:
    with Client(service.port, fleet.key) as client:
        client.call(body(fleet.documents(1)))
        with Client(service.port, f"{fleet.key}\r\nConnection: close") as closed:
            closed.call(body(fleet.documents(1)))
            with pytest.raises(
                OSError, match=r"closed the connection|Broken pipe|reset"
            ):
                closed.call(body(fleet.documents(1)))


@pytest.mark.parametrize("overlapping", [False, True])
def test_load_counts_devices_and_errors(
    overlapping: bool, fleet: Fleet, service: Service
) -> None:
    ports = {"service": (service.port, 1)}
    bursts = Bursts(1, 0.2)
    load = measure_load(ports, fleet, overlapping, bursts)["service"]
    assert load.devices_per_second > 0
    assert load.errors == 0
    stranger = Fleet(10, fleet.organization_id, "wrong")
    load = measure_load(ports, stranger, overlapping, bursts)["service"]
    assert load.devices_per_second == 0
    assert load.errors > 0


def test_a_sample_has_its_median_and_its_worst() -> None:
    found = sample([*range(100, 0, -1), 1000.0])
    assert (found.median, found.p99) == (51, 100)


def test_goals_can_be_missed() -> None:
    memory = Memory(61, 1, 72, 10, 123)
    storage = Storage(1, 1, 0.95, 1, 1, 1, 1, 1, 0)
    assert [goal.reached for goal in goals_of_resources(memory, storage)] == [False] * 4
    memory = Memory(60, 1, 70, 10, 120)
    storage = Storage(1, 1, 0.96, 1, 1, 1, 1, 1, 0)
    assert [goal.reached for goal in goals_of_resources(memory, storage)] == [True] * 4


@pytest.fixture
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Peer:
    """A peer that needs a package which there is not."""
    monkeypatch.setattr(peers, "ENVIRONMENTS", tmp_path)
    (tmp_path / "requirements.txt").write_text("there is no such package\n")
    return Peer("nobody", "Nobody", tmp_path)


def test_a_peer_that_cannot_be_installed_is_left_out(
    nobody: Peer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(comparison, "PEERS", [nobody])
    with comparison.peers("postgresql://", tmp_path) as ports:
        assert ports == {}
    assert "Left out: Nobody could not be installed:\n" in capsys.readouterr().out


def test_a_peer_whose_installer_is_missing(
    nobody: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nobody.folder / "package.json").touch()
    (nobody.folder / "package-lock.json").touch()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Missing, match=r"^Nobody needs npm, which is not here\.$"):
        peers.install(nobody)


def start_with(peer: Peer, script: str) -> None:
    """Have the peer run this when it is started."""
    start = peer.folder / "start"
    start.write_text(f"#!/bin/sh\n{script}\n")
    start.chmod(0o755)


def test_a_peer_that_ends_at_once_is_said_why(nobody: Peer, tmp_path: Path) -> None:
    start_with(nobody, 'echo "WORKERS is $WORKERS"; exit 1')
    with (
        pytest.raises(RuntimeError, match=r"^Nobody did not start:\nWORKERS is 2$"),
        peers.run(nobody, "postgresql://", free_port(), 2, 4, tmp_path / "log"),
    ):
        pass


def test_a_peers_port_must_be_free(
    nobody: Peer, service: Service, tmp_path: Path
) -> None:
    with (
        pytest.raises(RuntimeError, match=r"^Another process listens at port"),
        peers.run(nobody, "postgresql://", service.port, 2, 4, tmp_path / "log"),
    ):
        pass


def test_a_peer_is_installed_once_and_again_when_its_requirements_change(
    nobody: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    requirements = nobody.folder / "requirements.txt"
    requirements.write_text("# nothing\n")
    said = []
    for _ in range(3):
        peers.install(nobody)
        said.append(capsys.readouterr().out)
    assert said == ["Installing Nobody ...\n", "", ""]
    stamp = (nobody.environment / "installed").stat().st_mtime
    os.utime(requirements, (stamp + 1, stamp + 1))
    peers.install(nobody)
    assert capsys.readouterr().out == "Installing Nobody ...\n"


def test_every_peer_has_its_packages_pinned() -> None:
    for peer in peers.PEERS:
        assert os.access(peer.folder / "start", os.X_OK)
        if peer.runs_on_node:
            packages = json.loads((peer.folder / "package-lock.json").read_text())
            pinned = [each for name, each in packages["packages"].items() if name]
            assert pinned
            assert all(each["version"][0].isdigit() for each in pinned)
        else:
            lines = (peer.folder / "requirements.txt").read_text().splitlines()
            assert all("==" in line for line in lines if line and line[0] != "#")
