"""Uploads that are killed at random over an unreliable network, and resumed, update
every device and list it once in the result file."""

import json
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.random_search import FACTOR, SEED
from tests.support.client_runner import Client, ndjson
from tests.support.fault_proxy import FaultProxy, at_random, run_proxy
from tests.support.service import Service

DEVICES = 5_000
# One device of seven does not exist.
MISSING = 7
# Runs that are stopped before a run may finish.
STOPPED = 3

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
# Seconds from the first byte that is read to the signal, at most. Includes the check
# and a part of the sending.
MAX_DELAY = 0.8


@pytest.fixture
def fleet(acme: Organization) -> dict[str, str]:
    """The devices of the file in order, with their IDs, or "" for missing devices."""
    identifiers = [f"SN-{i}" for i in range(DEVICES)]
    acme.insert("another", *(i for n, i in enumerate(identifiers) if n % MISSING))
    ids = acme.ids()
    return {identifier: ids.get(identifier, "") for identifier in identifiers}


def write(path: Path, metadata: Mapping[str, Mapping[str, int]]) -> int:
    """Write the file; return the line of its first device."""
    if path.suffix == ".json":
        path.write_text(
            '{"devices":\n{'
            + ",\n".join(
                f"{json.dumps(identifier)}: {json.dumps(each)}"
                for identifier, each in metadata.items()
            )
            + "}}"
        )
        return 2
    if path.suffix == ".csv":
        path.write_text(
            "identifier,run:number,number:number\n"
            + "".join(
                f"{identifier},{each['run']},{each['number']}\n"
                for identifier, each in metadata.items()
            )
        )
        return 2
    path.write_text(ndjson(metadata.items()))
    return 1


@pytest.mark.soak
@pytest.mark.faults
@pytest.mark.slow(reason="four or more runs of the client")
@pytest.mark.parametrize(
    ("file", "results"),
    [
        ("fleet.ndjson", "fleet.csv.csv"),
        ("fleet.csv", "fleet.ndjson"),
        ("fleet.json", "fleet.jsonl"),
    ],
)
def test_killed_runs_are_resumed(
    service: Service,
    acme: Organization,
    fleet: dict[str, str],
    tmp_path: Path,
    file: str,
    results: str,
) -> None:
    chance = random.Random(SEED)
    for run in range(FACTOR):
        metadata = {
            identifier: {"run": run, "number": number}
            for number, identifier in enumerate(fleet)
        }
        first_line = write(tmp_path / file, metadata)
        with run_proxy(service.port) as proxy:
            client = Client(tmp_path, proxy.url, acme.key)
            push_until_done(client, proxy, chance, file, results)
        stored = acme.metadata()
        assert stored.pop("another") == {}
        assert stored == {i: each for i, each in metadata.items() if fleet[i]}
        found = client.results(results)
        assert found == [
            [str(line), identifier, id_, "updated" if id_ else "not_found"]
            for line, (identifier, id_) in enumerate(fleet.items(), first_line)
        ]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [file, results]
        )


def push_until_done(
    client: Client, proxy: FaultProxy, chance: random.Random, file: str, results: str
) -> None:
    """Start, stop and resume runs until all devices have a result."""
    (client.directory / results).unlink(missing_ok=True)
    journal = client.directory / f"{results}.journal"
    settled: dict[str, str] = {}
    for number in range(100):
        proxy.choose = at_random(chance, chance.choice((0, 0.1, 0.3)))
        before = len(proxy.requests)
        running = client.start(
            f"--results={results}",
            f"--batch-size={chance.choice((40, 150, 1000))}",
            f"--concurrency={chance.choice((1, 4, 8))}",
            f"--attempts={chance.choice((3, 10))}",
            *(["--resume"] if journal.exists() else []),
            file=file,
        )
        process = running.process
        assert process.stderr is not None
        assert process.stderr.readline() == "Reading ...\n"
        stopped = number < STOPPED
        if stopped:
            time.sleep(chance.uniform(0, MAX_DELAY))
            how = chance.choice(SIGNALS)
            process.send_signal(how)
            if chance.random() < 0.2:
                process.send_signal(how)
        done = running.end()
        # A device with a result is never sent again.
        sent = {each for request in proxy.requests[before:] for each in request.devices}
        assert not sent & settled.keys()
        if done.code in (1, 130, 143) and (client.directory / results).exists():
            rows = client.results(results)
            assert len({row[1] for row in rows}) == len(rows) == DEVICES
            now = {row[1]: row[3] for row in rows if row[3] != "not_sent"}
            assert now.items() >= settled.items()
            settled = now
        is_done = done.code < 0 and not journal.exists()
        if done.code == 3 or (is_done and (client.directory / results).exists()):
            return
        # 1: all attempts of a request failed.
        assert done.code in ((1, -9, 130, 143) if stopped else (1,)), done
        print(f"{number}: {done.code}, {len(settled)} settled")
    raise AssertionError("the run never finished")
