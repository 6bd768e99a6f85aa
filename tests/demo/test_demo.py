"""``make run``: the printed request works, the data is kept, errors name the action."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import psycopg2
import pytest
from click import ClickException

from bulk_metadata.demo.embedded import check_directory
from tests.support.service import ANY_PORT, ROOT
from tests.support.waiting import free_port

RESPONSE = re.compile(
    r'\{"success":true,"updated":2,"notFound":1,"results":\['
    r'\{"identifier":"SN-A100","deviceId":"([0-9a-f-]{36})","status":"updated"\},'
    r'\{"identifier":"SN-B200","deviceId":"([0-9a-f-]{36})","status":"updated"\},'
    r'\{"identifier":"SN-UNKNOWN","deviceId":"","status":"not_found"\}\]\}\n'
)


def start(data: Path, **settings: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bulk_metadata.demo", str(data)],
        cwd=ROOT,
        env={**os.environ, **ANY_PORT, "DATABASE_URL": "", **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


class Demo(NamedTuple):
    data: Path
    bind: str
    output: str

    def send(self, command: str = "") -> str:
        """Send the printed request, or another one, and return the response."""
        request = "curl " + self.output.partition("\ncurl ")[2].partition("\n\n")[0]
        return subprocess.run(
            ["bash", "-ec", command or request],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout


@contextmanager
def demo(data: Path, **settings: str) -> Iterator[Demo]:
    """Run the demo until it is ready, then interrupt it as a terminal does."""
    bind = f"127.0.0.1:{free_port()}"
    process = start(data, BIND=bind, **settings)
    assert process.stdout is not None
    try:
        output = ""
        while "Press Ctrl-C to stop the service." not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        yield Demo(data, bind, output)
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
        assert rest.endswith("Stopped.\n"), rest
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def data_directory() -> Iterator[Path]:
    """A directory with a path that is short enough for a Unix socket."""
    path = Path(f"/tmp/bulk-metadata-demo-{os.getpid()}-{free_port()}")
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data() -> Iterator[Path]:
    with data_directory() as path:
        yield path


@pytest.fixture(scope="module")
def restarted() -> Iterator[tuple[Demo, str]]:
    """A demo that was stopped and restarted, and the response of its first run."""
    with data_directory() as data:
        with demo(data) as first:
            response = first.send()
        with demo(data) as second:
            yield second, response


def test_request_works_after_restart(restarted: tuple[Demo, str]) -> None:
    second, response = restarted
    assert RESPONSE.fullmatch(response)
    assert second.send() == response
    assert (second.data / "demo.key").stat().st_mode & 0o777 == 0o600


def test_readme_request_works(restarted: tuple[Demo, str]) -> None:
    second, response = restarted
    readme = (ROOT / "README.md").read_text()
    [command, *_] = re.findall(r"```sh\n(curl .+?)```", readme, re.DOTALL)
    command = command.replace("127.0.0.1:8000", second.bind)
    assert second.send(command.replace(".data", str(second.data))) == response


def test_printed_commands_undo_request(restarted: tuple[Demo, str]) -> None:
    second, _ = restarted
    second.send()
    script = second.output.partition("\nexport ")[2].partition("\n\n")[0]
    script = script.replace(".venv/bin/flask", f"{sys.executable} -m flask")
    export, list_requests, undo = script.splitlines()
    environment = f"cd {ROOT}; export {export}"
    rows = second.send(f"{environment}; {list_requests}").splitlines()
    undo = undo.replace("--request ID", f"--yes --request {rows[1].split()[0]}")
    output = second.send(f"{environment}; {undo}")
    assert output.startswith("Restored 2 devices, skipped 0.\n")


def test_service_connects_as_its_role(restarted: tuple[Demo, str]) -> None:
    second, _ = restarted
    second.send()
    host = str(second.data / "postgres")
    with closing(psycopg2.connect(host=host, user="postgres")) as connection:
        cursor = connection.cursor()
        cursor.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity"
            " WHERE application_name = 'bulk-metadata'"
        )
        assert cursor.fetchall() == [("bulk_metadata_service",)]


def test_embedded_server_does_not_run_as_root(restarted: tuple[Demo, str]) -> None:
    second, _ = restarted
    owner = (second.data / "postgres" / "postmaster.pid").owner()
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert owner == ("pgserver" if user == "root" else user)


def failure(data: Path, **settings: str) -> str:
    """Return the output of a demo that does not start."""
    process = start(data, **settings)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "service is ready" not in output
    return output


def test_second_run_in_same_directory_is_rejected(
    restarted: tuple[Demo, str],
) -> None:
    """Otherwise the first run to exit stops the server of the other one."""
    data = restarted[0].data
    assert failure(data) == (
        "Starting PostgreSQL ...\n"
        f"Error: Another process uses {data}/postgres. Stop that process first.\n"
    )


def test_database_url_is_used(data: Path, owner_url: str) -> None:
    with demo(data, DATABASE_URL=owner_url) as other:
        assert "Starting PostgreSQL" not in other.output
        assert RESPONSE.fullmatch(other.send())
    assert not (data / "postgres").exists()


@pytest.mark.parametrize(
    ("setting", "other"),
    [("BIND", "127.0.0.1:8001"), ("METRICS_BIND", "127.0.0.1:9465")],
)
def test_port_in_use_is_reported(data: Path, setting: str, other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bind = f"127.0.0.1:{server.getsockname()[1]}"
        output = failure(data, **{setting: bind})
    assert output.startswith(f"Error: Cannot listen on {bind}: Address already in use")
    assert output.endswith(f"choose another port: make run {setting}={other}\n")
    assert not data.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"DATABASE_URL": "postgresql://127.0.0.1:1/down"},
            "Error: Cannot connect to the database in DATABASE_URL: connection to",
        ),
        ({"DATABASE_URL": "host:5432/database"}, "Error: DATABASE_URL is not a"),
        ({"GUNICORN_CMD_ARGS": "--no-such-option"}, "Error: gunicorn exited; the"),
    ],
)
def test_invalid_setting_is_reported(
    settings: dict[str, str], message: str, data: Path, owner_url: str
) -> None:
    output = failure(data, **{"DATABASE_URL": owner_url, **settings})
    assert message in output


def test_file_in_place_of_directory_is_reported(data: Path) -> None:
    data.mkdir()
    (data / "postgres").write_text("not a directory")
    assert f"{data}/postgres is not a directory. Delete it.\n" in failure(data)


def test_damaged_data_is_reported(data: Path) -> None:
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "PG_VERSION").write_text("18\n")
    output = failure(data)
    assert f"Error: PostgreSQL did not start in {data}/postgres: " in output
    assert output.endswith("or set DATABASE_URL to use another PostgreSQL.\n")


def test_space_in_path_is_reported(data: Path) -> None:
    with pytest.raises(ClickException, match="because the path contains a space"):
        check_directory(data / "a b")


@pytest.mark.parametrize("owner", ["nobody", "54321"])
def test_data_of_another_user_is_kept(owner: str, data: Path) -> None:
    directory = data
    if os.geteuid() == 0:
        directory.mkdir()
        shutil.chown(directory, int(owner) if owner.isdecimal() else owner)
    else:
        directory, owner = Path("/usr"), "root"
    uid = directory.stat().st_uid
    with pytest.raises(ClickException) as caught:
        check_directory(directory)
    assert caught.value.message == (
        f"The data in {directory} belongs to another user. Run the command as {owner}, "
        "delete the directory, or set DATABASE_URL to use another PostgreSQL."
    )
    assert directory.stat().st_uid == uid
