"""How a run ends, and how it is gone on with."""

import fcntl
import resource
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from bulk_metadata.client.check import check
from bulk_metadata.client.journal import Journal
from bulk_metadata.client.progress import Display
from bulk_metadata.client.report import Summary
from bulk_metadata.client.signals import Stopped
from bulk_metadata.client.tally import Tally
from bulk_metadata.files.reader import read
from bulk_metadata.files.source import Source
from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, Done, numbered
from tests.support.fault_proxy import Proxy, answered
from tests.support.service import ROOT
from tests.support.waiting import wait_until

DEVICES = numbered(10)


@pytest.fixture(autouse=True)
def fleet(pusher: Client, acme: Organization) -> None:
    pusher.write(DEVICES)
    acme.insert(*DEVICES)


def interrupted(pusher: Client, proxy: Proxy, *options: str) -> None:
    """Leave a run behind that was not finished: five of ten devices have an answer."""
    proxy.script(faults.passed_on, answered(401))
    done = pusher.push("--batch-size=5", "--concurrency=1", *options)
    assert done.code == 1
    proxy.script()
    proxy.calls.clear()


def test_the_client_needs_nothing_of_the_service() -> None:
    unwanted = {
        *("flask", "werkzeug", "gunicorn", "psycopg2", "marshmallow"),
        "prometheus_client",
    }
    script = "import sys, bulk_metadata.client.push; print(*sys.modules, sep='\\n')"
    modules = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    assert "bulk_metadata.client.push" in modules
    assert not unwanted & set(modules)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_calls_under_way_end(
    pusher: Client, proxy: Proxy, acme: Organization, number: int
) -> None:
    release = threading.Event()
    proxy.choose = lambda call: faults.held(release)
    running = pusher.start("--batch-size=1", "--concurrency=3")
    wait_until(lambda: proxy.most == 3)
    running.process.send_signal(number)
    stderr = running.process.stderr
    assert stderr is not None
    seen = [stderr.readline() for _ in range(4)]
    assert seen[-1] == (
        "Ending, once the calls under way are answered. Again: at once.\n"
    )
    release.set()
    done = running.end()
    assert done.code == 128 + number
    assert len(proxy.calls) == 3
    assert "            3 updated\n            7 not sent\n" in done.out
    assert "Failed" not in done.out
    assert done.out.endswith("Go on with the same command and --resume.\n")
    assert list(pusher.statuses().values()) == ["updated"] * 3 + ["not_sent"] * 7
    assert pusher.push("--resume").code == 0
    assert set(pusher.statuses().values()) == {"updated"}
    sent = [i for call in proxy.calls for i in call.devices]
    assert sorted(sent) == sorted(DEVICES)
    assert acme.metadata() == DEVICES


def test_a_signal_ends_the_pauses(pusher: Client, proxy: Proxy) -> None:
    proxy.choose = lambda call: answered(503, Retry_After="3000")
    running = pusher.start()
    wait_until(lambda: proxy.calls)
    running.process.send_signal(signal.SIGTERM)
    done = running.end()
    assert done.code == 143
    assert len(proxy.calls) == 1
    assert "Failed" not in done.out


def test_a_second_signal_ends_at_once(pusher: Client, proxy: Proxy) -> None:
    release = threading.Event()
    proxy.script(faults.passed_on, faults.held(release))
    running = pusher.start("--batch-size=5", "--concurrency=1")
    wait_until(lambda: len(proxy.calls) == 2)
    for _ in range(2):
        running.process.send_signal(signal.SIGINT)
        # Two at the same time are one.
        wait_until(lambda: not pending(running.process.pid))
    done = running.end()
    release.set()
    assert done.code == 130
    assert pusher.journal.exists()
    proxy.calls.clear()
    proxy.script()
    assert pusher.push("--resume").code == 0
    assert [list(call.devices) for call in proxy.calls] == [list(DEVICES)[5:]]


def pending(pid: int) -> int:
    """Return which signals have not reached the process, as a mask."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    [line] = [line for line in status.splitlines() if line.startswith("ShdPnd:")]
    return int(line.split()[1], 16)


def test_a_signal_while_it_is_checked(pusher: Client, proxy: Proxy) -> None:
    # What comes before a file is read is listening to signals.
    process = subprocess.Popen(
        pusher.command("--format=ndjson", file="-"),
        cwd=pusher.folder,
        env=pusher.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stdin = process.stdin
    assert stdin is not None
    assert process.stderr is not None
    stdin.write((pusher.folder / "fleet.ndjson").read_text())
    stdin.flush()
    wait_until(lambda: not unread(stdin))
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline().startswith("Ending, ")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", "Reading ...\nEnded before anything was sent.\n")
    assert not proxy.calls
    assert [path.name for path in pusher.folder.iterdir()] == ["fleet.ndjson"]


def unread(pipe: IO[str]) -> int:
    """Return how many bytes of what was written are still in the pipe."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(
    ("statuses", "is_journal_there", "code"),
    [
        ({"updated": 5}, False, 0),
        ({"updated": 5, "not_found": 1}, False, 3),
        ({"updated": 5}, True, 130),
        ({"updated": 5, "not_sent": 5}, True, 130),
        ({"not_sent": 5}, False, 130),
        ({}, False, 130),
    ],
    ids=str,
)
def test_a_signal_that_comes_too_late_changes_nothing(
    statuses: dict[str, int], is_journal_there: bool, code: int
) -> None:
    tally = Tally()
    tally.statuses.update(statuses)
    journal = Path("journal") if is_journal_there else None
    summary = Summary("file", tally, 1.0, Path("out.csv"), journal, "", signal.SIGINT)
    assert summary.exit_code == code


def test_a_check_ends_when_it_is_to_stop(pusher: Client) -> None:
    source = Source(str(pusher.folder / "fleet.ndjson"))
    journal = Journal(pusher.journal, {}, resume=False)
    stop = threading.Event()
    stop.set()
    with closing(source.open()) as file:
        chunks = read(file, "ndjson", 1000)
        with pytest.raises(Stopped):
            check(source, chunks, journal, Display("fleet"), stop)
    assert not journal.counts()
    journal.close(delete=True)


def test_a_result_file_of_a_finished_run_is_replaced(
    pusher: Client, acme: Organization
) -> None:
    assert pusher.push().code == 0
    pusher.write(numbered(2))
    assert pusher.push().code == 0
    assert len(pusher.results()) == 2


def test_an_unfinished_run_is_not_forgotten(pusher: Client, proxy: Proxy) -> None:
    interrupted(pusher, proxy)
    before = pusher.results()
    done = pusher.push()
    assert done.code == 1
    assert done.err.endswith(
        "Error: fleet.ndjson.results.csv.journal is the journal of a run that was not "
        "finished. Go on with it with --resume, or delete it to begin anew.\n"
    )
    assert not proxy.calls
    assert pusher.results() == before
    assert pusher.push("--resume").code == 0
    assert [list(call.devices) for call in proxy.calls] == [list(DEVICES)[5:]]


def change_file(pusher: Client) -> list[str]:
    pusher.write(numbered(9))
    return []


def change_url(pusher: Client) -> list[str]:
    pusher.url += "/elsewhere"
    return []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_file, "the file"),
        (change_url, "the address"),
        (lambda _: ["--format=json"], "the format"),
        (
            lambda _: ["--dry-run", "--results=fleet.ndjson.results.csv"],
            "whether it is a dry run",
        ),
    ],
    ids=["file", "address", "format", "dry run"],
)
def test_a_run_is_not_gone_on_with_as_another(
    pusher: Client, proxy: Proxy, change: Callable[[Client], list[str]], name: str
) -> None:
    interrupted(pusher, proxy)
    options = change(pusher)
    done = pusher.push("--resume", *options)
    assert done.code == 1
    assert done.err.endswith(
        "Error: fleet.ndjson.results.csv.journal is the journal of another run: "
        f"{name} has changed.\n"
    )
    assert not proxy.calls


def test_there_is_nothing_to_resume(pusher: Client, proxy: Proxy) -> None:
    done = pusher.push("--resume")
    assert done.code == 1
    assert done.err.endswith(
        "Error: There is nothing to resume: fleet.ndjson.results.csv.journal does not "
        "exist.\n"
    )
    assert not proxy.calls


def test_a_run_that_was_killed_after_it_was_checked(
    pusher: Client, proxy: Proxy
) -> None:
    proxy.choose = lambda call: faults.held(threading.Event())
    running = pusher.start()
    wait_until(lambda: proxy.calls)
    running.process.kill()
    assert running.end().code == -signal.SIGKILL
    proxy.script()
    # Nothing had an answer: both ways are right.
    assert pusher.journal.exists()
    assert pusher.push().code == 0
    assert not pusher.journal.exists()


def test_two_runs_at_once(pusher: Client, proxy: Proxy) -> None:
    release = threading.Event()
    proxy.choose = lambda call: faults.held(release)
    running = pusher.start()
    wait_until(lambda: proxy.calls)
    for options in ([], ["--resume"]):
        done = pusher.push(*options)
        assert done.code == 1
        assert done.err.endswith(
            "Error: fleet.ndjson.results.csv.journal is in use: another run goes on.\n"
        )
    release.set()
    assert running.end().code == 0
    assert len(proxy.calls) == 1


def test_a_folder_that_is_not_there(pusher: Client, proxy: Proxy) -> None:
    done = pusher.push("--results=missing/out.csv")
    assert done.code == 1
    assert done.err.endswith(
        "Error: missing/out.csv.journal: unable to open database file. "
        "Another place: --results\n"
    )
    assert not proxy.calls


def test_a_journal_that_is_a_folder(pusher: Client, proxy: Proxy) -> None:
    pusher.journal.mkdir()
    done = pusher.push()
    assert done.code == 1
    assert done.err.endswith(
        "Error: fleet.ndjson.results.csv.journal: unable to open database file. "
        "Another place: --results\n"
    )


def test_a_journal_that_cannot_be_written(pusher: Client, proxy: Proxy) -> None:
    pusher.journal.with_name(f"{pusher.journal.name}-wal").mkdir()
    done = pusher.push()
    assert done.code == 1
    assert "\nError: fleet.ndjson.results.csv.journal: " in done.err


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_a_journal_that_is_none(
    pusher: Client, proxy: Proxy, options: list[str]
) -> None:
    pusher.journal.write_text("This is something else. " * 100)
    done = pusher.push(*options)
    assert done.code == 1
    assert done.err.endswith(
        "Error: fleet.ndjson.results.csv.journal: file is not a database. "
        "Another place: --results\n"
    )
    assert pusher.journal.read_text().startswith("This is something else.")


def test_a_result_file_that_is_a_folder(pusher: Client, proxy: Proxy) -> None:
    (pusher.folder / "fleet.ndjson.results.csv").mkdir()
    done = pusher.push()
    assert done.code == 1
    assert "Error: " in done.err
    assert "Is a directory" in done.err
    # What was sent is not lost.
    assert pusher.journal.exists()
    (pusher.folder / "fleet.ndjson.results.csv").rmdir()
    proxy.calls.clear()
    assert pusher.push("--resume").code == 0
    assert not proxy.calls
    assert set(pusher.statuses().values()) == {"updated"}


def push_with_little_disk(pusher: Client, size: int, *options: str) -> Done:
    """Push where no file may have more than so many bytes."""
    process = subprocess.run(
        pusher.command(*options),
        cwd=pusher.folder,
        env=pusher.environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert "Traceback" not in process.stderr, process.stderr
    return Done(process.returncode, process.stdout, process.stderr)


def test_a_disk_that_is_full(pusher: Client, proxy: Proxy, acme: Organization) -> None:
    devices = {f"SN-{i:0200}": {"number": i} for i in range(5000)}
    acme.insert(*devices)
    pusher.write(devices)
    # The first one is too little for the list of devices, the other for what becomes
    # of them. A process with coverage needs some, too.
    for size in (600_000, 2_000_000):
        assert not proxy.calls
        done = push_with_little_disk(pusher, size, "--batch-size=100")
        assert done.code == 1
        assert done.err.startswith("Reading ...\nChecking ...\n")
        assert "Error: fleet.ndjson.results.csv.journal: " in done.err
    assert 0 < len(proxy.calls) < 50
    options = ["--resume"] if pusher.journal.exists() else []
    assert pusher.push(*options).code == 0
    assert pusher.statuses() == dict.fromkeys(devices, "updated")
    assert acme.metadata() == {**{each: {} for each in DEVICES}, **devices}


def test_the_key_is_nowhere(pusher: Client, proxy: Proxy) -> None:
    release = threading.Event()
    proxy.choose = lambda call: faults.held(release, answered(401, "no"))
    running = pusher.start("--json")
    wait_until(lambda: proxy.calls)
    command = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
    assert b"push" in command
    assert pusher.key.encode() not in command
    written = b"".join(
        path.read_bytes() for path in pusher.folder.iterdir() if path.is_file()
    )
    release.set()
    done = running.end()
    assert "401: no" in done.out
    written += b"".join(path.read_bytes() for path in pusher.folder.iterdir())
    assert pusher.key.encode() not in written
    assert pusher.key not in done.out + done.err


def test_a_file_that_is_changed_while_it_is_sent(pusher: Client, proxy: Proxy) -> None:
    release = threading.Event()
    proxy.choose = lambda call: faults.held(release)
    running = pusher.start()
    wait_until(lambda: proxy.calls)
    with (pusher.folder / "fleet.ndjson").open("a") as file:
        file.write("more\n")
    release.set()
    done = running.end()
    assert done.code == 1
    assert (
        "Failed: the file was changed meanwhile, so the results may be wrong\n"
        in done.out
    )


def test_a_name_that_tells_no_format(pusher: Client) -> None:
    pusher.write(DEVICES, "fleet.txt")
    done = pusher.push(file="fleet.txt")
    assert done.code == 2
    assert done.err.endswith(
        "Error: The name must end in one of: .ndjson, .jsonl, .json, .csv, .tsv; "
        "or --format must tell.\n"
    )


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("", "Set BULK_METADATA_API_KEY to the key."),
        ("  ", "Set BULK_METADATA_API_KEY to the key."),
        ("tlm_ü", "The key has characters that no key has."),
        ("tlm_a\nHost: another", "The key has characters that no key has."),
    ],
)
def test_no_key(pusher: Client, proxy: Proxy, key: str, sentence: str) -> None:
    pusher.key = key
    done = pusher.push()
    assert done.code == 2
    assert done.err.endswith(f"Error: {sentence}\n")
    assert not proxy.calls


def test_a_service_too_old_for_a_dry_run(
    pusher: Client, proxy: Proxy, acme: Organization
) -> None:
    proxy.choose = lambda call: faults.unaware
    done = pusher.push("--dry-run")
    assert done.code == 1
    assert done.err.endswith(
        "Error: This service is too old for a dry run. Nothing was sent.\n"
    )
    assert [call.devices for call in proxy.calls] == [{}]
    assert not acme.updated()
    assert [path.name for path in pusher.folder.iterdir()] == ["fleet.ndjson"]


def test_something_that_says_yes_to_everything_is_given_no_dry_run(
    pusher: Client, proxy: Proxy
) -> None:
    proxy.choose = lambda call: answered(200, b'{"results": []}')
    done = pusher.push("--dry-run")
    assert done.code == 1
    assert done.err.endswith(
        "Error: This service is too old for a dry run. Nothing was sent.\n"
    )
    assert len(proxy.calls) == 1


def test_a_dry_run_writes_nothing(
    pusher: Client, proxy: Proxy, acme: Organization
) -> None:
    pusher.write(numbered(12))
    rows = acme.rows()
    done = pusher.push("--dry-run", "--json", "--batch-size=5")
    assert done.code == 3, done.err
    assert acme.rows() == rows
    assert (done.summary["wouldUpdate"], done.summary["notFound"]) == (10, 2)
    ids = acme.ids()
    assert pusher.results("fleet.ndjson.dry-run.csv") == [
        [str(line), i, ids.get(i, ""), "would_update" if i in ids else "not_found"]
        for line, i in enumerate(numbered(12), 1)
    ]
    _, *calls = proxy.calls
    assert {call.path.partition("?")[2] for call in calls} == {"dryRun=true"}


def test_a_service_that_forgets_what_a_dry_run_is(
    pusher: Client, proxy: Proxy, acme: Organization
) -> None:
    proxy.script(faults.passed_on, faults.unaware)
    done = pusher.push("--dry-run", "--batch-size=1", "--concurrency=1")
    assert done.code == 1
    assert "Failed: The service did not keep to what a dry run is.\n" in done.out
    # The probe, and the one call that told.
    assert len(proxy.calls) == 2
