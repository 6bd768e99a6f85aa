"""A pytest plugin that reports skipped parts and slow tests at the end of a run.

Environment variables:
    TEST_SECONDS_LIMIT  fail the run if a test without the marker ``slow`` takes longer
    NOT_TESTED_FILE     append the skipped parts to this file
"""

import os
from collections import Counter
from pathlib import Path

import pytest

# Seconds. Tests above this have the marker ``slow``, which states the reason.
SLOW = 5

NOT_TESTED = Counter[str]()
SECONDS: dict[str, float] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        NOT_TESTED[report.longrepr[2].removeprefix("Skipped: ")] += 1
    if report.when == "call" and "slow" not in report.keywords:
        SECONDS[report.nodeid] = report.duration


def slower_than(seconds: float) -> list[str]:
    return [
        f"{test} took {duration:.1f} s. Limit: {seconds:g} s, or mark it as slow."
        for test, duration in SECONDS.items()
        if duration > seconds
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    limit = os.environ.get("TEST_SECONDS_LIMIT")
    if limit and slower_than(float(limit)) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in slower_than(float(os.environ.get("TEST_SECONDS_LIMIT") or SLOW)):
        terminalreporter.write_line(f"SLOW: {line}", yellow=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    lines = [f"NOT TESTED ({n} tests): {part}" for part, n in NOT_TESTED.items()]
    if lines and (terminal := config.pluginmanager.get_plugin("terminalreporter")):
        for line in lines:
            terminal.write_line(line, yellow=True)
    if lines and (path := os.environ.get("NOT_TESTED_FILE")):
        with Path(path).open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
