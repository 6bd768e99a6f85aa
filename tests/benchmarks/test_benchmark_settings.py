"""The trials of PostgreSQL's settings run, and say what they measured."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from benchmarks.settings import COLUMNS, main
from benchmarks.trials import TRIALS
from tests.support.service import ROOT

pytestmark = pytest.mark.benchmarks


def test_all_trials_in_their_least_effort() -> None:
    result = CliRunner().invoke(
        main, ["--fleet", "1000", "--rounds", "2"], catch_exceptions=False
    )
    assert result.exit_code == 0
    said, found = result.output.split("\n\n")
    assert said.splitlines() == [
        f"{trial.name}: 1,000 devices, 2 rounds ..." for trial in TRIALS
    ]
    rows = [line.strip("| ").split(" | ") for line in found.splitlines()]
    assert tuple(rows[0]) == COLUMNS
    sides = {row[0]: row for row in rows if len(row) == len(COLUMNS)}
    for trial in TRIALS:
        assert f"| **{trial.name}**, 1,000 devices, 2 rounds |" in found
        assert all(side.name in sides for side in trial.sides)
    # What does not depend on speed: who had checkpoints; and that an index on what
    # changes lets no update be heap-only.
    assert sides["directly after one"][5] != "0"
    assert sides["later"][5] == "0"
    assert sides["GIN on `device_metadata`"][4] == "0.0%"


def test_the_command() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.settings", "--only", "there is no such"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout.startswith("\n| 1,000 devices |")
