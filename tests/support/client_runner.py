"""The client as its users run it: as a process."""

import csv
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support import forked_client
from tests.support.service import ROOT

MODULE = (sys.executable, "-m", "bulk_metadata.client")

# Forks a process that has imported the client, because this takes 0.15 s.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([forked_client.__name__])

Metadata = Mapping[str, Mapping[str, Any]]


@dataclass
class Done:
    """The outcome of a run, which must not end with a traceback."""

    code: int
    out: str
    err: str

    def __post_init__(self) -> None:
        assert "Traceback" not in self.err, self.err

    @property
    def summary(self) -> dict[str, Any]:
        """The summary that --json prints last."""
        summary: dict[str, Any] = json.loads(self.out.splitlines()[-1])["summary"]
        return summary


@dataclass
class Client:
    """The client in ``directory``, with the URL of a service, an API key, and
    environment variables."""

    directory: Path
    url: str
    key: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BULK_METADATA_API_KEY": self.key,
            **self.variables,
        }

    def write(self, devices: Metadata, name: str = "fleet.ndjson") -> Path:
        """Write the file that the other methods push."""
        path = self.directory / name
        path.write_text(ndjson(devices.items()))
        return path

    def command(self, *options: str, file: str = "fleet.ndjson") -> list[str]:
        return [*MODULE, *self.arguments(*options, file=file)]

    def arguments(self, *options: str, file: str) -> list[str]:
        return ["push", file, "--url", self.url, *options]

    def start(
        self,
        *options: str,
        file: str = "fleet.ndjson",
        prefix: Sequence[str] = (),
    ) -> "Running":
        process = subprocess.Popen(
            [*prefix, *self.command(*options, file=file)],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Running(process)

    def push(
        self, *options: str, file: str = "fleet.ndjson", stdin: bytes | None = None
    ) -> Done:
        """Run the client to its end, with a pipe or no standard input."""
        if stdin is None:
            arguments = self.arguments(*options, file=file)
            return _run_forked(arguments, self.directory, self.environment)
        process = subprocess.run(
            self.command(*options, file=file),
            cwd=self.directory,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        out, err = process.stdout.decode(), process.stderr.decode()
        return Done(process.returncode, out, err)

    def results(self, name: str = "fleet.ndjson.results.csv") -> list[list[str]]:
        """Return the rows of the result file without the header."""
        return read_results(self.directory / name)

    def statuses(self) -> dict[str, str]:
        """Return the status of each identifier. No identifier may occur twice."""
        results = self.results()
        statuses = {identifier: status for _, identifier, _, status in results}
        assert len(statuses) == len(results)
        return statuses

    @property
    def journal(self) -> Path:
        return self.directory / "fleet.ndjson.results.csv.journal"


@dataclass
class Running:
    """A running client."""

    process: subprocess.Popen[str]

    def end(self) -> Done:
        """Wait until the client exits."""
        try:
            out, err = self.process.communicate(timeout=120)
        finally:
            self.process.kill()
        return Done(self.process.returncode, out, err)


def _run_forked(
    arguments: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> Done:
    with TemporaryDirectory() as name:
        out, err = Path(name, "out"), Path(name, "err")
        process = FORKS.Process(
            target=forked_client.run,
            args=(arguments, directory, dict(environment), out, err),
        )
        process.start()
        process.join(120)
        process.kill()
        process.join()
        assert process.exitcode is not None
        return Done(process.exitcode, out.read_text(), err.read_text())


def ndjson(devices: Iterable[tuple[str, Any]]) -> str:
    return "".join(
        json.dumps({"identifier": identifier, "metadata": metadata}) + "\n"
        for identifier, metadata in devices
    )


def numbered(number: int, **more: Any) -> dict[str, dict[str, Any]]:
    """Return metadata for ``number`` devices, SN-0 and following."""
    return {f"SN-{i}": {"number": i, **more} for i in range(number)}


def read_results(path: Path) -> list[list[str]]:
    """Return line, identifier, deviceId and status of each line of a result file."""
    with path.open(newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            header, *rows = csv.reader(file)
            assert header == ["line", "identifier", "deviceId", "status"]
            return rows
        lines = [json.loads(line) for line in file]
    for line in lines:
        assert list(line) == ["line", "identifier", "deviceId", "status"]
    return [[str(value) for value in line.values()] for line in lines]
