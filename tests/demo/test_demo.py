"""``make run``: from nothing to a call that works, and back, twice."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
from click import ClickException

from bulk_metadata.demo.embedded import refuse_unusable
from tests.support.service import ANY_PORT, ROOT, free_port

DEMO = [sys.executable, "-m", "bulk_metadata.demo"]


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder whose name is short enough for a socket in it."""
    folder = Path(f"/tmp/bulk-metadata-demo-{os.getpid()}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def demo(data: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the demo until it is ready; give its process and what it said."""
    process = subprocess.Popen(
        [*DEMO, str(data)],
        cwd=ROOT,
        env={**os.environ, **ANY_PORT, "DATABASE_URL": "", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    assert process.stdout is not None
    try:
        said = ""
        while "Ctrl-C stops the service" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        yield process, said
        # To all of its group, as a terminal does on Ctrl-C.
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert rest.endswith("Stopped.\n"), rest
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def curl(command: str) -> str:
    """Run a command as it stands, as a person would paste it."""
    return subprocess.run(
        ["bash", "-ec", command],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


ANSWER = re.compile(
    r'\{"success":true,"updated":2,"notFound":1,"results":\['
    r'\{"identifier":"SN-A100","deviceId":"([0-9a-f-]{36})","status":"updated"\},'
    r'\{"identifier":"SN-B200","deviceId":"([0-9a-f-]{36})","status":"updated"\},'
    r'\{"identifier":"SN-UNKNOWN","deviceId":"","status":"not_found"\}\]\}\n'
)


def test_the_call_it_prints_works_and_the_data_stays(data: Path) -> None:
    bind = f"127.0.0.1:{free_port()}"
    answers = set()
    for _ in range(2):
        with demo(data, BIND=bind) as (_, said):
            command = said[said.index("curl ") : said.index("The same on a page")]
            assert f"The same on a page: http://{bind}/docs\n" in said
            assert f"http://{bind}/api/ext-v1/device/bulk-metadata" in command
            answers.add(curl(command))
            [readme_command, *_] = re.findall(
                r"```sh\n(curl .+?)```", Path("README.md").read_text(), re.DOTALL
            )
            answers.add(
                curl(
                    readme_command.replace("127.0.0.1:8000", bind).replace(
                        ".data", str(data)
                    )
                )
            )
    # The same devices both times, and the same key.
    [answer] = answers
    assert ANSWER.fullmatch(answer)
    assert (data / "demo.key").stat().st_mode & 0o777 == 0o600


def test_the_service_has_no_more_rights_than_it_needs(data: Path) -> None:
    with demo(data, BIND=f"127.0.0.1:{free_port()}") as (_, said):
        curl(said[said.index("curl ") : said.index("The same on a page")])
        connection = psycopg2.connect(host=str(data / "postgres"), user="postgres")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT DISTINCT usename FROM pg_stat_activity"
                " WHERE application_name = 'bulk-metadata'"
            )
            assert cursor.fetchall() == [("bulk_metadata_service",)]
        connection.close()


def test_it_uses_the_database_it_is_given(data: Path, owner_url: str) -> None:
    settings = {"BIND": f"127.0.0.1:{free_port()}", "DATABASE_URL": owner_url}
    with demo(data, **settings) as (_, said):
        assert "Starting PostgreSQL" not in said
        assert ANSWER.fullmatch(
            curl(said[said.index("curl ") : said.index("The same on a page")])
        )
    assert not (data / "postgres").exists()


def fails(data: Path, lines: int = 1, **settings: str) -> str:
    """Return what the demo says when it cannot start: a line, or as many as told."""
    process = subprocess.run(
        [*DEMO, str(data)],
        cwd=ROOT,
        env={**os.environ, **ANY_PORT, "DATABASE_URL": "", **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1
    assert process.stderr.count("\n") == lines
    return process.stderr


@pytest.mark.parametrize(
    ("setting", "other"),
    [("BIND", "127.0.0.1:8001"), ("METRICS_BIND", "127.0.0.1:9465")],
)
def test_a_taken_port_is_named(data: Path, setting: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bind = f"127.0.0.1:{server.getsockname()[1]}"
        said = fails(data, 1, **{setting: bind})
    assert said.startswith(f"Error: Cannot listen at {bind}: Address already in use")
    assert said.endswith(f"another port, like this: make run {setting}={other}\n")
    assert not data.exists()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "postgresql://127.0.0.1:1/down",
            "Error: Cannot connect to the database in DATABASE_URL: connection"
            " to server at",
        ),
        (
            "host:5432/database",
            "Error: DATABASE_URL is not a PostgreSQL connection URL. It looks like "
            "postgresql://user:password@host:5432/database",
        ),
    ],
)
def test_a_broken_database_url_is_named(url: str, sentence: str, data: Path) -> None:
    assert fails(data, DATABASE_URL=url).startswith(sentence)


def test_a_folder_that_is_none_is_named(data: Path) -> None:
    data.mkdir()
    (data / "postgres").write_text("not a folder")
    assert fails(data) == f"Error: {data}/postgres is not a folder.\n"


def test_another_users_folder_is_named_and_left_alone(data: Path) -> None:
    folder, owner = Path("/usr"), "root"
    if os.geteuid() == 0:
        folder, owner = data, "nobody"
        folder.mkdir()
        os.chown(folder, pwd.getpwnam(owner).pw_uid, -1)
    with pytest.raises(ClickException) as caught:
        refuse_unusable(folder)
    assert caught.value.message == (
        f"The data in {folder} is another user's: do this as {owner}, or remove the "
        "folder, or set DATABASE_URL to a PostgreSQL of yours."
    )
    assert folder.owner() == owner


def test_a_broken_folder_is_named(data: Path) -> None:
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "PG_VERSION").write_text("18\n")
    said = fails(data, lines=2)
    assert said.startswith(f"Error: PostgreSQL did not start in {data}/postgres: ")
    assert said.endswith("or set DATABASE_URL to a PostgreSQL of yours.\n")


def test_a_space_in_the_folders_name_is_named(data: Path) -> None:
    said = fails(data / "a b")
    assert said.startswith(f'Error: PostgreSQL cannot start in "{data}/a b/postgres"')


def test_a_second_run_in_the_same_folder_is_refused(data: Path) -> None:
    """Or the first to end would stop the other's PostgreSQL."""
    with demo(data, BIND=f"127.0.0.1:{free_port()}"):
        assert fails(data) == (
            f"Error: Another process uses {data}/postgres already: stop it first.\n"
        )


def test_gunicorns_own_failure_is_passed_on(data: Path, owner_url: str) -> None:
    process = subprocess.run(
        [*DEMO, str(data)],
        cwd=ROOT,
        env={
            **os.environ,
            **ANY_PORT,
            "BIND": f"127.0.0.1:{free_port()}",
            "DATABASE_URL": owner_url,
            "GUNICORN_CMD_ARGS": "--no-such-option",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1
    assert "gunicorn ended by itself, see above." in process.stderr
    assert "Ready" not in process.stdout


def test_the_embedded_server_runs_as_this_user_or_its_own(data: Path) -> None:
    with demo(data, BIND=f"127.0.0.1:{free_port()}"):
        owner = pwd.getpwuid((data / "postgres" / "postmaster.pid").stat().st_uid)
    me = pwd.getpwuid(os.geteuid())
    assert owner.pw_name == ("pgserver" if me.pw_name == "root" else me.pw_name)
