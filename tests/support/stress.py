"""Everything at once: clients that overlap, faults that never end, and a check of what
the devices hold in the end against all that was ever sent and answered."""

import http.client
import itertools
import json
import os
import random
import signal
import time
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg2

from tests.support.cluster import Cluster
from tests.support.load import Client, backends, load, workers
from tests.support.service import Answer, Service
from tests.support.waiting import wait_until

DEVICES = [f"SN-{number}" for number in range(600)]
BATCHES = [1, 50, 300]
CLIENTS = 8
# Seconds: between two faults, after a call that failed, between two lines of progress.
FAULT_PAUSE = (0.1, 2.0)
FAILED_PAUSE = 0.02
PROGRESS = 5

LOST = 0


@dataclass
class Call:
    """What one client sent, when, and what it was told. Times are in seconds."""

    number: int
    token: str
    devices: Sequence[str]
    start: float = 0.0
    end: float = 0.0
    # LOST if no answer came.
    status: int = LOST
    # An answer of 200 that is not what the call asked for.
    is_wrong: bool = False

    def metadata(self, device: str) -> dict[str, Any]:
        """Return what the call sends for ``device``: so much of the call in it, in so
        many places, that parts of two calls could not pass for one."""
        return {
            "call": self.number,
            "device": device,
            "token": self.token,
            "padding": [f"{self.token} {number}" for number in range(8)],
            "again": {"call": self.number, "device": device, "token": self.token},
        }


def is_right(call: Call, answer: Answer) -> bool:
    """Tell whether a 200 names the devices sent, all updated, in their order."""
    results = answer.json["results"]
    return (
        [result["identifier"] for result in results] == list(call.devices)
        and all(result["status"] == "updated" for result in results)
        and answer.json["updated"] == len(call.devices)
        and answer.json["notFound"] == 0
    )


def violations(
    calls: Sequence[Call],
    stored: Mapping[str, Mapping[str, Any]],
    crashes: Sequence[float],
) -> Iterator[str]:
    """Say in words what must never be. ``crashes`` tells, in order, when PostgreSQL had
    no process left."""
    for call in calls:
        if call.status not in (200, 500, LOST):
            yield f"call {call.number} was answered with {call.status}"
        if call.is_wrong:
            yield f"call {call.number} was told of other devices than it sent"
    numbered = {call.number: call for call in calls}
    newest = newest_acknowledged(calls)
    for device, metadata in stored.items():
        writer = numbered.get(metadata.get("call", -1))
        if writer is None or device not in writer.devices:
            yield f"{device} holds what no call sent for it"
        elif canonical(metadata) != canonical(writer.metadata(device)):
            yield f"{device} holds something else than call {writer.number} sent"
        elif device in newest and settled(writer, crashes) < newest[device].start:
            yield f"{device} lost call {newest[device].number} to {writer.number}"


def newest_acknowledged(calls: Sequence[Call]) -> dict[str, Call]:
    """Return, for each device, the acknowledged call that began last."""
    acknowledged = (call for call in calls if call.status == 200)
    return {
        device: call
        for call in sorted(acknowledged, key=lambda call: call.start)
        for device in call.devices
    }


def settled(call: Call, crashes: Sequence[float]) -> float:
    """Return when nothing of ``call`` can happen any more.

    With a 200 that is its end. Without one its statement may outlive it: PostgreSQL
    does not notice at once that a worker is gone. No statement outlives a crash.
    """
    if call.status == 200:
        return call.end
    index = bisect_left(crashes, call.end)
    return crashes[index] if index < len(crashes) else float("inf")


def canonical(metadata: Mapping[str, Any]) -> str:
    """Return the one text that these members have, so that 1 is not 1.0 or true."""
    return json.dumps(metadata, sort_keys=True)


@dataclass
class Torture:
    """Clients and faults, everything random drawn from ``seed``."""

    server: Cluster
    service: Service
    key: str
    seed: int
    calls: list[Call] = field(default_factory=list)
    crashes: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def run(self, seconds: float) -> None:
        """Let all loose for so many seconds, and end on a crash, so that what is read
        afterwards is what was really kept."""
        self._numbers = itertools.count()
        self._clients = [Client(self.service, self.key) for _ in range(CLIENTS)]
        self._randoms = [self._chance(n) for n in range(CLIENTS)]
        # Every device has a call to show from the start.
        self._call(self._clients[0], DEVICES)
        assert self.calls[0].status == 200
        try:
            with load(self._step, CLIENTS):
                self._faults(time.monotonic() + seconds)
        finally:
            for client in self._clients:
                client.close()
        self.crash()

    def figures(self) -> str:
        statuses = Counter(call.status for call in self.calls)
        faults = ", ".join(f"{kind} {n}" for kind, n in sorted(self.faults.items()))
        return (
            f"calls {len(self.calls)}, 200s {statuses[200]}, 500s {statuses[500]}, "
            f"lost connections {statuses[LOST]}, "
            f"faults {self.faults.total()} ({faults})"
        )

    def _chance(self, whose: object) -> random.Random:
        return random.Random(f"{self.seed} {whose}")

    def _step(self, number: int) -> None:
        """One call of one client."""
        chance = self._randoms[number]
        sent = chance.sample(DEVICES, chance.choice(BATCHES))
        if self._call(self._clients[number], sent).status != 200:
            time.sleep(FAILED_PAUSE)

    def _call(self, client: Client, sent: Sequence[str]) -> Call:
        call = Call(next(self._numbers), uuid.uuid4().hex, sent)
        body = {device: call.metadata(device) for device in sent}
        call.start = time.monotonic()
        try:
            answer = client.post(body)
        except TimeoutError:
            raise  # nothing may keep a client waiting for so long
        except (OSError, http.client.HTTPException):
            call.end = time.monotonic()
        else:
            call.end = time.monotonic()
            call.status = answer.status
            call.is_wrong = answer.status == 200 and not is_right(call, answer)
        self.calls.append(call)
        return call

    def _faults(self, end: float) -> None:
        """Inject faults until ``end``: each kind once, in random order, and again."""
        chance = self._chance("faults")
        kinds: list[Callable[[random.Random], None]] = []
        progress = time.monotonic()
        while (now := time.monotonic()) < end:
            if now > progress:
                print(f"{end - now:.0f} s to go:", self.figures(), flush=True)
                progress = now + PROGRESS
            kinds = kinds or chance.sample(self._kinds(), len(self._kinds()))
            kinds.pop()(chance)
            time.sleep(chance.uniform(*FAULT_PAUSE))

    def _kinds(self) -> list[Callable[[random.Random], None]]:
        return [
            lambda _: self.crash(),
            lambda _: self._terminate_backends(),
            self._kill_backend,
            self._kill_worker,
            lambda _: self._reload(),
        ]

    def crash(self) -> None:
        self.server.stop("immediate")
        self.crashes.append(time.monotonic())
        self.server.start()
        self.faults["server crashed"] += 1

    def _terminate_backends(self) -> None:
        for pid in self._backends():
            send(signal.SIGTERM, pid)
        self.faults["backends terminated"] += 1

    def _kill_backend(self, chance: random.Random) -> None:
        # One that ended since it was listed has spared us the trouble.
        send(signal.SIGKILL, chance.choice(self._backends()))
        self.faults["backend killed"] += 1

    def _kill_worker(self, chance: random.Random) -> None:
        wait_until(lambda: workers(self.service), "a worker")
        # The last one may have ended between the two looks; another time, then.
        if found := list(workers(self.service)):
            send(signal.SIGKILL, chance.choice(found))
        self.faults["worker killed"] += 1

    def _reload(self) -> None:
        self.service.process.send_signal(signal.SIGHUP)
        self.faults["reload"] += 1

    def _backends(self) -> list[int]:
        """Return the service's backends, once there are any and the server, which may
        be recovering, says so."""
        found: list[int] = []

        def find() -> list[int]:
            with (
                suppress(psycopg2.Error),
                closing(self.server.connect()) as owner,
                owner.cursor() as cursor,
            ):
                found.extend(backends(cursor).values())
            return found

        wait_until(find, "the service's backends")
        return found


def send(number: signal.Signals, pid: int) -> None:
    """Send a signal to a process, which may have ended by itself."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
