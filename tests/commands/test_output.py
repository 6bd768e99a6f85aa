"""Commands whose standard streams are closed or fail."""

import os

import pytest

from tests.commands.conftest import Send, run_flask
from tests.conftest import Organization

NO_SPACE = "Error: Cannot write to standard output: No space left on device"
CLOSED = "Error: Cannot write to standard output: it is closed"
NO_KEY = ". No API key was created.\n"


@pytest.mark.parametrize(
    "redirect", ["> /dev/full", "> /dev/full 2>&1", ">&-", "2>&-", "<&- >&- 2>&-"]
)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_undo_reports_result_without_output(
    options: tuple[str, ...],
    redirect: str,
    owner_url: str,
    send: Send,
    acme: Organization,
) -> None:
    acme.insert("A", metadata={"v": 0})
    send("one", A=1)
    command = ("undo", "Acme", "--request", "one", "--yes", *options)
    done = run_flask(owner_url, *command, redirect=redirect)
    assert (done.returncode, done.stderr) == (0, "")
    assert acme.metadata() == {"A": {"v": 0}}


def test_undo_without_input_requires_yes(
    owner_url: str, send: Send, acme: Organization
) -> None:
    acme.insert("A", metadata={"v": 0})
    send("one", A=1)
    done = run_flask(owner_url, "undo", "Acme", "--request", "one", redirect="<&-")
    assert done.returncode == 1
    assert done.stderr.endswith(
        "Error: Cannot ask for confirmation because a standard stream is closed. Use "
        "--yes.\n"
    )
    assert acme.metadata() == {"A": {"v": 1}}


@pytest.mark.parametrize(
    ("command", "redirect", "expected"),
    [
        (["import-devices", "Acme", "-", "--format=csv"], "> /dev/full", (0, "")),
        (["import-devices", "Acme", "-", "--format=csv"], "2>&-", (0, "")),
        (["create-key", "Acme"], "> /dev/full", (1, NO_SPACE + NO_KEY)),
        (["create-key", "Acme"], ">&-", (1, CLOSED + NO_KEY)),
        (["list-keys"], "> /dev/full", (1, f"{NO_SPACE}\n")),
        (["list-keys"], "> /dev/full 2>&1", (1, "")),
        (["create-key", "Unknown"], "2> /dev/full", (1, "")),
        (["export-devices", "Acme"], "> /dev/full", (1, f"{NO_SPACE}\n")),
        (["export-devices", "Acme"], ">&-", (1, f"{CLOSED}\n")),
    ],
)
def test_failed_output_is_reported(
    command: list[str],
    redirect: str,
    expected: tuple[int, str],
    owner_url: str,
    acme: Organization,
) -> None:
    acme.insert("A")
    stdin = "identifier\nB\n"
    done = run_flask(owner_url, *command, stdin=stdin, redirect=redirect)
    assert (done.returncode, done.stderr) == expected
    acme.cursor.execute("SELECT name FROM api_keys")
    assert acme.cursor.fetchall() == [("tests",)]
    assert ("B" in acme.metadata()) == (command[0] == "import-devices")


def test_closed_pipe_ends_list_without_message(
    owner_url: str, acme: Organization
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = run_flask(owner_url, "list-keys", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize(
    "command",
    [
        ["create-organization", "€"],
        ["create-key", "Acme", "--name=€"],
        ["list-keys"],
    ],
)
def test_unprintable_characters_are_escaped(
    command: list[str],
    owner_url: str,
    acme: Organization,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    acme.cursor.execute("UPDATE api_keys SET name = '€'")
    done = run_flask(owner_url, *command)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"\u20ac" in done.stdout
