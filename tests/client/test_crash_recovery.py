"""Killed at any moment, through a network that loses things, and gone on with: every
device ends right and stands once in the result file.

CLIENT_TORTURE_SECONDS is for longer searches, CLIENT_TORTURE_SEED for one again.
"""

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Organization
from tests.support.client_runner import Client, ndjson
from tests.support.fault_proxy import Proxy, at_random

SECONDS = float(os.environ.get("CLIENT_TORTURE_SECONDS", "0"))
SEED = os.environ.get("CLIENT_TORTURE_SEED")

DEVICES = 20_000
# One of so many does not exist.
MISSING = 7
# Runs that are ended before one that is not.
ENDED = 6

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
# Seconds from the first byte read until a run is ended, at most: the whole check and
# some of the sending.
LATEST = 1.5


@pytest.fixture
def fleet(acme: Organization) -> dict[str, str]:
    """The devices of the file, in its order, and their ids; "" if there is none."""
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


@pytest.mark.parametrize(
    ("file", "results"),
    [
        ("fleet.ndjson", "fleet.csv.csv"),
        ("fleet.csv", "fleet.ndjson"),
        ("fleet.json", "fleet.jsonl"),
    ],
)
def test_killed_at_random_and_resumed(
    pusher: Client,
    proxy: Proxy,
    acme: Organization,
    fleet: dict[str, str],
    file: str,
    results: str,
) -> None:
    end = time.monotonic() + SECONDS
    run = 0
    while not run or time.monotonic() < end:
        run += 1
        seed = int(SEED) if SEED else random.SystemRandom().randrange(2**32)
        print(f"CLIENT_TORTURE_SEED={seed}", flush=True)
        chance = random.Random(seed)
        metadata = {
            identifier: {"run": run, "number": number}
            for number, identifier in enumerate(fleet)
        }
        first_line = write(pusher.folder / file, metadata)
        push_until_done(pusher, proxy, chance, file, results)
        proxy.calls.clear()
        stored = acme.metadata()
        assert stored.pop("another") == {}
        assert stored == {i: each for i, each in metadata.items() if fleet[i]}
        found = pusher.results(results)
        assert found == [
            [str(line), identifier, id_, "updated" if id_ else "not_found"]
            for line, (identifier, id_) in enumerate(fleet.items(), first_line)
        ]
        assert sorted(path.name for path in pusher.folder.iterdir()) == sorted(
            [file, results]
        )


def push_until_done(
    pusher: Client, proxy: Proxy, chance: random.Random, file: str, results: str
) -> None:
    """Begin, end and go on until a run is not ended and all has an answer."""
    (pusher.folder / results).unlink(missing_ok=True)
    journal = pusher.folder / f"{results}.journal"
    settled: dict[str, str] = {}
    for number in range(100):
        proxy.choose = at_random(chance, chance.choice((0, 0.1, 0.3)))
        before = len(proxy.calls)
        running = pusher.start(
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
        ended = number < ENDED
        if ended:
            time.sleep(chance.uniform(0, LATEST))
            how = chance.choice(SIGNALS)
            process.send_signal(how)
            if chance.random() < 0.2:
                process.send_signal(how)
        done = running.end()
        # What had its answer is never sent again.
        sent = {each for call in proxy.calls[before:] for each in call.devices}
        assert not sent & settled.keys()
        if done.code in (1, 130, 143) and (pusher.folder / results).exists():
            rows = pusher.results(results)
            assert len({row[1] for row in rows}) == len(rows) == DEVICES
            now = {row[1]: row[3] for row in rows if row[3] != "not_sent"}
            assert now.items() >= settled.items()
            settled = now
        is_over = done.code < 0 and not journal.exists()
        if done.code == 3 or (is_over and (pusher.folder / results).exists()):
            return
        # 1: a call found no answer in its attempts.
        assert done.code in ((1, -9, 130, 143) if ended else (1,)), done
        print(f"run {number}: {done.code}, {len(settled)} settled")
    raise AssertionError("never done")
