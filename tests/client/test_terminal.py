"""Output on a terminal, and progress lines in a log file."""

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from bulk_metadata.client.progress import Lines
from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, numbered
from tests.support.fault_proxy import FaultProxy, response
from tests.support.terminal import (
    HIDE_CURSOR,
    SHOW_CURSOR,
    Terminal,
    run_in_terminal,
)

DEVICES = numbered(2000)

Show = Callable[..., AbstractContextManager[Terminal]]


@pytest.fixture
def show(pusher: Client, acme: Organization) -> Show:
    """Push a fleet on a terminal."""
    acme.insert(*DEVICES)
    pusher.write({**DEVICES, "SN-MISSING": {}})

    @contextmanager
    def show(*options: str, columns: int = 80) -> Iterator[Terminal]:
        command = pusher.command(*options)
        with run_in_terminal(
            command, pusher.directory, pusher.environment, columns
        ) as terminal:
            yield terminal

    return show


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_bar_fits_terminal(proxy: FaultProxy, show: Show, columns: int) -> None:
    long = "a reason that goes on and on " * 10
    proxy.script(*[response(503, long)] * 3)
    slowly = faults.delayed(0.2)
    chosen = proxy.choose
    proxy.choose = lambda request: (
        fault if (fault := chosen(request)) is not faults.forwarded else slowly
    )
    with show("--batch-size=100", columns=columns) as terminal:
        assert terminal.end() == 3
    assert [line for line in terminal.lines[:-1] if len(line) > columns] == []
    bars = [line for line in terminal.lines if line.startswith("Sending ")]
    shape = r"Sending [━╸╺]{4,} +[\d,]+/2,001 devices(, [\d,]+/s)? [-\d:]+ *"
    assert [bar for bar in bars if not re.fullmatch(shape, bar)] == []
    assert any("/s " in bar for bar in bars)
    tallies = [line for line in terminal.lines if "retried (503: a reas" in line]
    assert any(line.endswith("…") for line in tallies)
    assert any(" updated, " in line for line in tallies)
    # The bar is removed, and the cursor is restored.
    assert terminal.lines[-6:-2] == [
        "        2,000 updated",
        "            1 not found",
        "            3 requests retried",
        "Results: fleet.ndjson.results.csv",
    ]
    assert terminal.written.rindex(SHOW_CURSOR) > terminal.written.rindex(HIDE_CURSOR)


def test_retries_are_displayed_without_responses(proxy: FaultProxy, show: Show) -> None:
    proxy.choose = lambda request: response(503, "too busy", Retry_After="3000")
    with show() as terminal:
        terminal.wait_for("retried (503: too busy)")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130


def test_messages_stay_above_bar(
    proxy: FaultProxy, show: Show, pusher: Client, acme: Organization
) -> None:
    device = "[bold] :smile: \x1b[31m"
    acme.insert(device)
    pusher.write({**DEVICES, device: {}})
    proxy.choose = lambda request: (
        response(400, "no [/] \x07") if device in request.devices else faults.forwarded
    )
    with show("--batch-size=100") as terminal:
        assert terminal.end() == 1
    said = "".join(terminal.lines)
    assert (
        r'fleet.ndjson, line 2001, device "[bold] :smile: \x1b[31m": 400: no [/] \x07'
        in said
    )
    assert "\x07" not in terminal.written


def test_second_ctrl_c_restores_cursor(proxy: FaultProxy, show: Show) -> None:
    proxy.choose = lambda request: faults.held(threading.Event())
    with show() as terminal:
        terminal.wait_for("Sending")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("Stopping after the requests in flight.")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert terminal.written.rindex(SHOW_CURSOR) > terminal.written.rindex(HIDE_CURSOR)


def test_api_key_prompt_hides_input(show: Show, pusher: Client) -> None:
    key, pusher.key = pusher.key, ""
    with show() as terminal:
        terminal.wait_for("API key: ")
        terminal.type(f" {key} \n")
        assert terminal.end() == 3
    assert key not in terminal.written


def test_ctrl_c_at_prompt_exits(show: Show, pusher: Client) -> None:
    pusher.key = ""
    with show() as terminal:
        terminal.wait_for("API key: ")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130


def test_quiet_prints_nothing(show: Show) -> None:
    with show("--quiet") as terminal:
        assert terminal.end() == 3
    assert terminal.written == ""


@pytest.mark.parametrize("term", ["dumb", ""])
def test_simple_terminal_gets_lines(show: Show, pusher: Client, term: str) -> None:
    pusher.variables = {"TERM": term}
    with show() as terminal:
        assert terminal.end() == 3
    assert "\x1b" not in terminal.written
    assert terminal.lines[:3] == ["Reading ...", "Checking ...", "Sending ..."]


def test_json_summary_follows_bar(show: Show) -> None:
    with show("--json") as terminal:
        assert terminal.end() == 3
    assert '"updated":2000' in "".join(terminal.lines)


def test_progress_lines_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("file")
    lines.begin("Sending", "devices", 2000)
    lines.statistics.statuses["updated"] = 1000
    lines.update(1000)
    lines.delay(6.4, "503: busy")
    lines.delay(6.6, "503: another thread waits as long")
    lines.delay(5, "503: not long")
    lines._last -= 5
    lines.update(1000)
    lines.update(1000)
    _, delay, line = capsys.readouterr().err.splitlines()
    assert delay == "Waiting 6 s before the next attempt: 503: busy"
    assert line.startswith("1,000 of 2,000 devices, ")
    assert line.endswith(" s left; 1,000 updated, 3 retried (503: not long)")


def test_progress_lines_need_no_total(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("file")
    lines.begin("Sending", "devices", None)
    lines._last -= 5
    lines.update(7)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "Sending ..."
    assert second.startswith("7 devices, ")
    assert "left" not in second
