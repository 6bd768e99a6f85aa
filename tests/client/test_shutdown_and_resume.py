"""Shutdown by signals and errors, and resuming a run."""

import fcntl
import resource
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from bulk_metadata.client.connection import TlsFiles
from bulk_metadata.client.progress import Display
from bulk_metadata.client.push import Settings, push
from bulk_metadata.client.report import Statistics, Summary
from bulk_metadata.client.signals import StoppedError
from bulk_metadata.client.transport import endpoint
from bulk_metadata.core.limits import DEFAULT_MAX_BODY_BYTES
from bulk_metadata.files import Options
from bulk_metadata.files.device import Problem
from bulk_metadata.files.reader import CHUNK_DEVICES, DeviceFile
from bulk_metadata.files.source import Source
from tests.conftest import Organization
from tests.support import fault_proxy as faults
from tests.support.client_runner import Client, Done, Running, ndjson, numbered
from tests.support.fault_proxy import FaultProxy, response
from tests.support.service import ROOT
from tests.support.waiting import wait_until

DEVICES = numbered(10)
SET_KEY = "Set BULK_METADATA_API_KEY or use --key-file."


@pytest.fixture(autouse=True)
def fleet(pusher: Client, acme: Organization) -> None:
    pusher.write(DEVICES)
    acme.insert(*DEVICES)


def interrupted(pusher: Client, proxy: FaultProxy, *options: str) -> None:
    """Leave an unfinished run: five of ten devices are updated."""
    proxy.script(faults.forwarded, response(401))
    done = pusher.push("--batch-size=5", "--concurrency=1", *options)
    assert done.code == 1
    proxy.script()
    proxy.requests.clear()


def test_client_imports_no_service_library() -> None:
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_completes_requests_in_flight(
    pusher: Client, proxy: FaultProxy, acme: Organization, number: int
) -> None:
    release = threading.Event()
    proxy.choose = lambda request: faults.held(release)
    running = pusher.start("--batch-size=1", "--concurrency=3")
    wait_until(lambda: proxy.max_concurrent == 3)
    running.process.send_signal(number)
    wait_for_stop(running)
    release.set()
    done = running.end()
    assert done.code == 128 + number
    assert len(proxy.requests) == 3
    assert "            3 updated\n            7 not sent\n" in done.out
    assert "Error" not in done.err
    assert done.err.endswith("To continue, run the same command with --resume.\n")
    assert list(pusher.statuses().values()) == ["updated"] * 3 + ["not_sent"] * 7
    assert pusher.push("--resume").code == 0
    assert set(pusher.statuses().values()) == {"updated"}
    sent = [i for request in proxy.requests for i in request.devices]
    assert sorted(sent) == sorted(DEVICES)
    assert acme.metadata() == DEVICES


def test_signal_during_last_request_completes_run(
    pusher: Client, proxy: FaultProxy
) -> None:
    release = threading.Event()
    proxy.choose = lambda request: faults.held(release)
    running = pusher.start()
    wait_until(lambda: proxy.max_concurrent == 1)
    running.process.send_signal(signal.SIGINT)
    wait_for_stop(running)
    release.set()
    done = running.end()
    assert done.code == 0
    assert "--resume" not in done.err
    assert not pusher.journal.exists()


def wait_for_stop(running: Running) -> None:
    """Return when the client has processed its first signal."""
    assert running.process.stderr is not None
    message = (
        "Stopping after the requests in flight. "
        "Press Ctrl-C again to stop immediately.\n"
    )
    assert message in iter(running.process.stderr.readline, "")


def test_nohup_ignores_sighup(pusher: Client, proxy: FaultProxy) -> None:
    release = threading.Event()
    proxy.choose = lambda request: faults.held(release)
    running = pusher.start(prefix=("nohup",))
    wait_until(lambda: proxy.requests)
    running.process.send_signal(signal.SIGHUP)
    release.set()
    done = running.end()
    assert done.code == 0
    assert "Stopping" not in done.err


def test_resumed_run_keeps_request_id(pusher: Client, proxy: FaultProxy) -> None:
    proxy.script(faults.forwarded, response(401))
    first = pusher.push("--batch-size=5", "--concurrency=1", "--json")
    done = pusher.push("--resume", "--json")
    assert done.code == 0
    ids = {request.headers["X-Request-ID"] for request in proxy.requests}
    assert ids == {first.summary["requestId"]} == {done.summary["requestId"]}
    assert pusher.push("--json").summary["requestId"] != first.summary["requestId"]


def test_resume_checks_organization_of_new_key(
    pusher: Client, proxy: FaultProxy, acme: Organization, globex: Organization
) -> None:
    globex.insert(*DEVICES)
    interrupted(pusher, proxy)
    before, pusher.key = globex.rows(), globex.key
    done = pusher.push("--resume")
    assert done.code == 1
    assert "Error: The API key belongs to another organization. " in done.err
    assert globex.rows() == before
    pusher.key = acme.create_key()
    proxy.requests.clear()
    assert pusher.push("--resume").code == 0
    *_, request = proxy.requests
    assert list(request.devices) == list(DEVICES)[5:]
    assert acme.metadata() == DEVICES


def test_resume_after_key_of_empty_organization_sends_all_devices(
    pusher: Client, proxy: FaultProxy, acme: Organization, globex: Organization
) -> None:
    pusher.key = globex.key
    proxy.script(faults.forwarded, response(401))
    assert pusher.push("--batch-size=5", "--concurrency=1").code == 1
    pusher.key = acme.key
    done = pusher.push("--resume")
    assert done.code == 0, done.err
    assert set(pusher.statuses().values()) == {"updated"}
    assert acme.metadata() == DEVICES


def test_journal_deleted_by_another_program_is_tolerated(
    pusher: Client, proxy: FaultProxy
) -> None:
    def delete(handler: faults.Handler) -> None:
        pusher.journal.unlink()
        faults.forwarded(handler)

    proxy.script(delete)
    assert pusher.push().code == 0
    assert set(pusher.statuses().values()) == {"updated"}


def test_signal_ends_retry_delay(pusher: Client, proxy: FaultProxy) -> None:
    proxy.choose = lambda request: response(503, Retry_After="3000")
    running = pusher.start()
    wait_until(lambda: proxy.requests)
    running.process.send_signal(signal.SIGTERM)
    done = running.end()
    assert done.code == 143
    assert len(proxy.requests) == 1
    assert "Error" not in done.err


def test_second_signal_exits_immediately(pusher: Client, proxy: FaultProxy) -> None:
    # Otherwise the response to the first request may not be in the journal yet.
    interrupted(pusher, proxy)
    release = threading.Event()
    proxy.script(faults.held(release))
    running = pusher.start("--resume")
    wait_until(lambda: proxy.requests)
    running.process.send_signal(signal.SIGINT)
    wait_for_stop(running)
    running.process.send_signal(signal.SIGINT)
    done = running.end()
    release.set()
    assert done.code == 130
    assert pusher.journal.exists()
    proxy.requests.clear()
    proxy.script()
    assert pusher.push("--resume").code == 0
    assert [list(request.devices) for request in proxy.requests] == [list(DEVICES)[5:]]


def test_signal_interrupts_reading_of_input(pusher: Client, proxy: FaultProxy) -> None:
    process = subprocess.Popen(
        pusher.command("--format=ndjson", file="-"),
        cwd=pusher.directory,
        env=pusher.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        stdin = process.stdin
        assert stdin is not None
        assert process.stderr is not None
        stdin.write((pusher.directory / "fleet.ndjson").read_text())
        stdin.flush()
        wait_until(lambda: not unread(stdin))
        process.send_signal(signal.SIGINT)
        # Standard input is still open.
        assert process.wait(60) == 130
        assert process.stderr.read() == "Stopped before anything was sent.\n"
    assert not proxy.requests
    assert [path.name for path in pusher.directory.iterdir()] == ["fleet.ndjson"]


def unread(pipe: IO[str]) -> int:
    """Return the number of unread bytes in the pipe."""
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
def test_late_signal_keeps_exit_code(
    statuses: dict[str, int], is_journal_there: bool, code: int
) -> None:
    statistics = Statistics()
    statistics.statuses.update(statuses)
    journal = Path("journal") if is_journal_there else None
    summary = Summary(statistics=statistics, journal=journal, signal=signal.SIGINT)
    assert summary.exit_code == code


def push_in_process(
    pusher: Client, summary: Summary, display: Display, stop: threading.Event
) -> None:
    """Push two chunks of devices in this process, without a check."""
    lines = [*map(str, range(CHUNK_DEVICES)), "not JSON"]
    lines[:10] = ndjson(DEVICES.items()).splitlines()
    (pusher.directory / "fleet.ndjson").write_text("\n".join(lines))
    settings = Settings(
        endpoint(pusher.url),
        pusher.key,
        TlsFiles(),
        pusher.directory / "fleet.ndjson.results.csv",
        pusher.journal,
        resume=False,
        check=False,
        dry_run=False,
        batch_size=5,
        max_body_bytes=DEFAULT_MAX_BODY_BYTES,
        concurrency=1,
        attempts=1,
    )
    summary.statistics = display.statistics
    with Source(str(pusher.directory / "fleet.ndjson")) as source:
        push(DeviceFile(source, Options()), settings, summary, display, stop)


def test_internal_error_keeps_results_of_requests_in_flight(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    class Broken(Display):
        """Fails at the second chunk of the file, when the first request was sent."""

        def problem(self, problem: Problem) -> None:
            if problem.number > CHUNK_DEVICES:
                wait_until(lambda: proxy.requests)
                raise ZeroDivisionError

    summary = Summary()
    with pytest.raises(ZeroDivisionError):
        push_in_process(pusher, summary, Broken("fleet.ndjson"), threading.Event())
    updated = [each for each in acme.metadata().values() if each]
    assert updated
    assert summary.statistics.statuses["updated"] == len(updated)
    assert summary.journal == pusher.journal
    assert summary.request_id


def test_signal_while_reading_stops_before_sending(
    pusher: Client, proxy: FaultProxy
) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        push_in_process(pusher, Summary(), Display("fleet.ndjson"), stop)
    assert not proxy.requests
    assert not pusher.journal.exists()


def test_rest_of_changed_file_is_not_sent(pusher: Client, proxy: FaultProxy) -> None:
    class Changing(Display):
        """Changes the file at the first problem, which is in the first chunk."""

        def problem(self, problem: Problem) -> None:
            with (pusher.directory / "fleet.ndjson").open("a") as file:
                file.write("\n")

    summary = Summary()
    push_in_process(pusher, summary, Changing("fleet.ndjson"), threading.Event())
    assert (
        summary.failure
        == "the file changed while it was read, so the rest was not sent"
    )


def test_new_run_replaces_results(pusher: Client, acme: Organization) -> None:
    assert pusher.push().code == 0
    pusher.write(numbered(2))
    assert pusher.push().code == 0
    assert len(pusher.results()) == 2


def test_unfinished_run_requires_resume(pusher: Client, proxy: FaultProxy) -> None:
    interrupted(pusher, proxy)
    before = pusher.results()
    done = pusher.push()
    assert done.code == 1
    assert done.err.endswith(
        "Error: fleet.ndjson.results.csv.journal belongs to an unfinished run. "
        "Continue it with --resume, or delete the journal to start again.\n"
    )
    assert not proxy.requests
    assert pusher.results() == before
    assert pusher.push("--resume").code == 0
    assert [list(request.devices) for request in proxy.requests] == [list(DEVICES)[5:]]


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
def test_resume_rejects_changed_upload(
    pusher: Client, proxy: FaultProxy, change: Callable[[Client], list[str]], name: str
) -> None:
    interrupted(pusher, proxy)
    options = change(pusher)
    done = pusher.push("--resume", *options)
    assert done.code == 1
    assert done.err.endswith(
        "Error: fleet.ndjson.results.csv.journal belongs to another run, which differs "
        f"in {name}. To start again, delete the journal.\n"
    )
    assert not proxy.requests


def test_resume_without_journal_is_rejected(pusher: Client, proxy: FaultProxy) -> None:
    done = pusher.push("--resume")
    assert done.code == 1
    assert done.err.endswith(
        "Error: There is no run to resume: fleet.ndjson.results.csv.journal does not "
        "exist.\n"
    )
    assert not proxy.requests


def test_run_killed_before_results_starts_again(
    pusher: Client, proxy: FaultProxy
) -> None:
    proxy.choose = lambda request: faults.held(threading.Event())
    running = pusher.start()
    wait_until(lambda: proxy.requests)
    running.process.kill()
    assert running.end().code == -signal.SIGKILL
    proxy.script()
    # No device has a result, so --resume is optional.
    assert pusher.journal.exists()
    assert pusher.push().code == 0
    assert not pusher.journal.exists()


def test_concurrent_run_is_rejected(pusher: Client, proxy: FaultProxy) -> None:
    release = threading.Event()
    proxy.choose = lambda request: faults.held(release)
    running = pusher.start()
    wait_until(lambda: proxy.requests)
    for options in ([], ["--resume"]):
        done = pusher.push(*options)
        assert done.code == 1
        assert done.err.endswith(
            "Error: fleet.ndjson.results.csv.journal is locked by another push. "
            "Wait until it finishes, or use a different --results file.\n"
        )
    release.set()
    assert running.end().code == 0
    assert len(proxy.requests) == 1


def test_missing_results_directory_is_reported(
    pusher: Client, proxy: FaultProxy
) -> None:
    done = pusher.push("--results=missing/out.csv")
    assert done.code == 1
    assert done.err.endswith(
        "Error: Cannot write missing/out.csv.journal: unable to open database file. "
        "Use --results to choose another file.\n"
    )
    assert not proxy.requests


def test_journal_directory_is_reported(pusher: Client, proxy: FaultProxy) -> None:
    pusher.journal.mkdir()
    done = pusher.push()
    assert done.code == 1
    assert done.err.endswith(
        "Error: Cannot write fleet.ndjson.results.csv.journal: unable to open "
        "database file. Use --results to choose another file.\n"
    )


def test_unwritable_journal_is_reported(pusher: Client, proxy: FaultProxy) -> None:
    pusher.journal.with_name(f"{pusher.journal.name}-wal").mkdir()
    done = pusher.push()
    assert done.code == 1
    assert "\nError: Cannot write fleet.ndjson.results.csv.journal: " in done.err


@pytest.mark.parametrize("options", [[], ["--resume"]])
def test_foreign_journal_file_is_kept(
    pusher: Client, proxy: FaultProxy, options: list[str]
) -> None:
    pusher.journal.write_text("This is something else. " * 100)
    done = pusher.push(*options)
    assert done.code == 1
    assert done.err.endswith(
        "Error: Cannot write fleet.ndjson.results.csv.journal: file is not a database. "
        "Use --results to choose another file.\n"
    )
    assert pusher.journal.read_text().startswith("This is something else.")


def test_results_directory_is_reported(pusher: Client, proxy: FaultProxy) -> None:
    (pusher.directory / "fleet.ndjson.results.csv").mkdir()
    done = pusher.push()
    assert done.code == 1
    assert done.err.endswith(
        "Error: Cannot write fleet.ndjson.results.csv: Is a directory.\n"
        "To continue, run the same command with --resume.\n"
    )
    # The results are kept in the journal.
    assert pusher.journal.exists()
    (pusher.directory / "fleet.ndjson.results.csv").rmdir()
    proxy.requests.clear()
    assert pusher.push("--resume").code == 0
    assert not proxy.requests
    assert set(pusher.statuses().values()) == {"updated"}


def push_with_little_disk(pusher: Client, size: int, *options: str) -> Done:
    """Push with a limit for the size of files in bytes."""
    process = subprocess.run(
        pusher.command(*options),
        cwd=pusher.directory,
        env=pusher.environment,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert "Traceback" not in process.stderr, process.stderr
    return Done(process.returncode, process.stdout, process.stderr)


def test_full_disk_loses_no_result(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    devices = {f"SN-{i:0200}": {"number": i} for i in range(5000)}
    acme.insert(*devices)
    pusher.write(devices)
    # The first limit is too low for the list of devices, the second for the results.
    for size in (600_000, 2_000_000):
        assert not proxy.requests
        done = push_with_little_disk(pusher, size, "--batch-size=100")
        assert done.code == 1
        assert done.err.startswith("Reading ...\nChecking ...\n")
        assert "Error: Cannot write fleet.ndjson.results.csv.journal: " in done.err
    assert 0 < len(proxy.requests) < 50
    options = ["--resume"] if pusher.journal.exists() else []
    assert pusher.push(*options).code == 0
    assert pusher.statuses() == dict.fromkeys(devices, "updated")
    assert acme.metadata() == {**{each: {} for each in DEVICES}, **devices}


def test_api_key_is_never_written(pusher: Client, proxy: FaultProxy) -> None:
    release = threading.Event()
    proxy.choose = lambda request: faults.held(release, response(401, "no"))
    running = pusher.start("--json")
    wait_until(lambda: proxy.requests)
    command = Path(f"/proc/{running.process.pid}/cmdline").read_bytes()
    assert b"push" in command
    assert pusher.key.encode() not in command
    written = b"".join(
        path.read_bytes() for path in pusher.directory.iterdir() if path.is_file()
    )
    release.set()
    done = running.end()
    assert "401: no" in done.err
    written += b"".join(path.read_bytes() for path in pusher.directory.iterdir())
    assert pusher.key.encode() not in written
    assert pusher.key not in done.out + done.err


def test_file_changed_during_upload_is_reported(
    pusher: Client, proxy: FaultProxy
) -> None:
    release = threading.Event()
    proxy.choose = lambda request: faults.held(release)
    running = pusher.start()
    wait_until(lambda: proxy.requests)
    with (pusher.directory / "fleet.ndjson").open("a") as file:
        file.write("more\n")
    release.set()
    done = running.end()
    assert done.code == 1
    assert (
        "Error: the file changed while it was read, so results may be wrong."
        in done.err
    )


def test_unknown_extension_is_rejected(pusher: Client) -> None:
    pusher.write(DEVICES, "fleet.txt")
    done = pusher.push(file="fleet.txt")
    assert done.code == 2
    assert 'Unknown file name extension ".txt". Set the format with' in done.err


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("", f"No API key. {SET_KEY}"),
        ("  ", f"No API key. {SET_KEY}"),
        ("tlm_ü", "The API key contains invalid characters."),
        ("tlm_a\nHost: other", "The API key contains invalid characters."),
    ],
)
def test_missing_or_invalid_key_is_rejected(
    pusher: Client, proxy: FaultProxy, key: str, message: str
) -> None:
    pusher.key = key
    done = pusher.push()
    assert done.code == 2
    assert done.err.endswith(f"Error: {message}\n")
    assert not proxy.requests


def test_dry_run_requires_server_support(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    proxy.choose = lambda request: faults.dry_run_ignored
    done = pusher.push("--dry-run")
    assert done.code == 1
    assert done.err.endswith(
        "Error: This service does not support dry runs. Nothing was sent.\n"
        "To continue, run the same command with --resume.\n"
    )
    assert [request.devices for request in proxy.requests] == [{}]
    assert not acme.updated()
    assert not (pusher.directory / "fleet.ndjson.dry-run.csv").exists()


def test_dry_run_requires_error_response(pusher: Client, proxy: FaultProxy) -> None:
    proxy.choose = lambda request: response(200, b'{"results": []}')
    done = pusher.push("--dry-run")
    assert done.code == 1
    assert done.err.endswith(
        "Error: This service does not support dry runs. Nothing was sent.\n"
        "To continue, run the same command with --resume.\n"
    )
    assert len(proxy.requests) == 1


def test_dry_run_writes_nothing(
    pusher: Client, proxy: FaultProxy, acme: Organization
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
    _, *requests = proxy.requests
    assert {request.path.partition("?")[2] for request in requests} == {"dryRun=true"}


def test_unconfirmed_dry_run_ends_run(
    pusher: Client, proxy: FaultProxy, acme: Organization
) -> None:
    proxy.script(faults.forwarded, faults.dry_run_ignored)
    done = pusher.push("--dry-run", "--batch-size=1", "--concurrency=1")
    assert done.code == 1
    assert "Error: The response does not confirm the dry run.\n" in done.err
    # The probe, and one request.
    assert len(proxy.requests) == 2
