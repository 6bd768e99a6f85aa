"""What a person sees."""

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
from tests.support.fault_proxy import Proxy, answered
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
    """Push a fleet in a terminal."""
    acme.insert(*DEVICES)
    pusher.write({**DEVICES, "SN-MISSING": {}})

    @contextmanager
    def show(*options: str, columns: int = 80) -> Iterator[Terminal]:
        command = pusher.command(*options)
        with run_in_terminal(
            command, pusher.folder, pusher.environment, columns
        ) as terminal:
            yield terminal

    return show


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_bar_fits(proxy: Proxy, show: Show, columns: int) -> None:
    long = "a reason that goes on and on " * 10
    proxy.script(*[answered(503, long)] * 3)
    slowly = faults.delayed(0.2)
    chosen = proxy.choose
    proxy.choose = lambda call: (
        fault if (fault := chosen(call)) is not faults.passed_on else slowly
    )
    with show("--batch-size=100", columns=columns) as terminal:
        assert terminal.end() == 3
    assert max(map(len, terminal.lines)) <= columns
    bars = [line for line in terminal.lines if line.startswith("Sending ")]
    shape = r"Sending [━╸╺]{4,} +[\d,]+/2,001 devices(, [\d,]+/s)? [-\d:]+ *"
    assert [bar for bar in bars if not re.fullmatch(shape, bar)] == []
    assert any("/s " in bar for bar in bars)
    tallies = [line for line in terminal.lines if "retried (503: a reas" in line]
    assert any(line.endswith("…") for line in tallies)
    assert any(" updated, " in line for line in tallies)
    # The bar is gone in the end, and the cursor is back.
    assert terminal.lines[-4:] == [
        "        2,000 updated",
        "            1 not found",
        "            3 calls sent again",
        "Results: fleet.ndjson.results.csv",
    ]
    assert terminal.written.rindex(SHOW_CURSOR) > terminal.written.rindex(HIDE_CURSOR)


def test_retries_are_seen_while_nothing_is_answered(proxy: Proxy, show: Show) -> None:
    proxy.choose = lambda call: answered(503, "too busy", Retry_After="3000")
    with show() as terminal:
        terminal.wait_for("retried (503: too busy)")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130


def test_what_is_said_stays_above_the_bar(
    proxy: Proxy, show: Show, pusher: Client, acme: Organization
) -> None:
    device = "[bold] :smile: \x1b[31m"
    acme.insert(device)
    pusher.write({**DEVICES, device: {}})
    proxy.choose = lambda call: (
        answered(400, "no [/] \x07") if device in call.devices else faults.passed_on
    )
    with show("--batch-size=100") as terminal:
        assert terminal.end() == 1
    said = "".join(terminal.lines)
    assert (
        r'fleet.ndjson, line 2001, device "[bold] :smile: \x1b[31m": 400: no [/] \x07'
        in said
    )
    assert "\x07" not in terminal.written


def test_ctrl_c_once_and_twice(proxy: Proxy, show: Show) -> None:
    proxy.choose = lambda call: faults.held(threading.Event())
    with show() as terminal:
        terminal.wait_for("Sending")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("Ending, once the calls under way are answered.")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130
    assert terminal.written.rindex(SHOW_CURSOR) > terminal.written.rindex(HIDE_CURSOR)


def test_the_key_is_asked_for_and_not_shown(show: Show, pusher: Client) -> None:
    key, pusher.key = pusher.key, ""
    with show() as terminal:
        terminal.wait_for("API key: ")
        terminal.type(f" {key} \n")
        assert terminal.end() == 3
    assert key not in terminal.written


def test_nothing_moves_when_it_is_to_be_quiet(show: Show) -> None:
    with show("--quiet") as terminal:
        assert terminal.end() == 3
    assert terminal.written == ""


def test_json_and_a_bar(show: Show) -> None:
    with show("--json") as terminal:
        assert terminal.end() == 3
    assert '"updated":2000' in "".join(terminal.lines)


def test_lines_now_and_then(proxy: Proxy, pusher: Client, acme: Organization) -> None:
    devices = numbered(4)
    acme.insert(*devices)
    pusher.write(devices)
    # The second call is under way when the next line is due.
    proxy.script(faults.passed_on, answered(503, "busy", Retry_After="6"))
    done = pusher.push("--batch-size=2", "--concurrency=1")
    assert done.code == 0
    *_, line = done.err.splitlines()
    assert line.startswith("2 of 4 devices, ")
    assert line.endswith(" s left; 2 updated, 1 retried (503: busy)")


def test_lines_of_what_has_no_total(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("file")
    lines.begin("Sending", "devices", None)
    lines._last -= 5
    lines.update(7)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "Sending ..."
    assert second.startswith("7 devices, ")
    assert "left" not in second
