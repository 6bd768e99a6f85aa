"""Sending: batches are sent, several at once, and what comes of each is noted."""

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from http import HTTPStatus
from typing import NamedTuple

from bulk_metadata.client.batches import Batch, Batcher, halves
from bulk_metadata.client.journal import Journal, Outcome
from bulk_metadata.client.progress import Display
from bulk_metadata.client.retry import Hopeless, Refused, Unanswered
from bulk_metadata.client.signals import Stopped
from bulk_metadata.client.transport import Api, Results
from bulk_metadata.files.device import Device, Problem

# Batches made ready beyond those that are under way, so that no thread waits for one.
AHEAD = 2

# Seconds between two looks at what is seen while no call ends.
LOOK = 0.5


class Call(NamedTuple):
    """A call under way."""

    batch: Batch
    # time.monotonic() when it was handed on.
    start: float


class Sender:
    """Sends devices, and notes what becomes of them in the journal and the tally."""

    def __init__(
        self,
        api: Api,
        batcher: Batcher,
        journal: Journal,
        display: Display,
        stop: threading.Event,
    ) -> None:
        """Sending ends as soon as ``stop`` is set, by whoever."""
        self._api = api
        self._batcher = batcher
        self._journal = journal
        self._display = display
        self._stop = stop
        self._halves: deque[Batch] = deque()
        self._last_answer = 0.0
        #: Why it ended before all was sent, if it was not told to.
        self.failure = ""

    def send(self, devices: Iterable[Device], concurrency: int) -> None:
        """Send ``devices``, in so many calls at a time. Raises sqlite3.Error."""
        batches = self._batcher.batches(devices)
        calls: dict[Future[list[Outcome]], Call] = {}
        with ThreadPoolExecutor(concurrency) as executor:
            try:
                while self._submit(batches, calls, executor, concurrency + AHEAD):
                    done, _ = wait(calls, LOOK, FIRST_COMPLETED)
                    for future in done:
                        self._settle(calls.pop(future), future)
                    self._display.update(self._display.tally.statuses.total())
            except BaseException:
                # Else those under way would be tried again and again.
                self._stop.set()
                executor.shutdown(wait=False, cancel_futures=True)
                raise

    def _submit(
        self,
        batches: Iterator[Batch],
        calls: dict[Future[list[Outcome]], Call],
        executor: Executor,
        most: int,
    ) -> bool:
        """Have ``most`` calls under way, as far as there are; tell if there are any."""
        while len(calls) < most and (batch := self._next(batches)):
            future = executor.submit(self._call, batch)
            calls[future] = Call(batch, time.monotonic())
        return bool(calls)

    def leave_out(self, problems: Sequence[Problem]) -> None:
        """Show and note what cannot be sent."""
        for problem in problems:
            self._display.problem(problem)
        outcomes = [Outcome(problem.number, "", "invalid") for problem in problems]
        self._note(problems, outcomes)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        if self._stop.is_set():
            return None
        return self._halves.popleft() if self._halves else next(batches, None)

    def _call(self, batch: Batch) -> list[Outcome]:
        """Make the call, in a thread. Raises what Api.replace does."""
        try:
            results = self._api.replace(batch.body)
            return [_outcome(device, results) for device in batch.devices]
        except Hopeless as error:
            # At once, so that no thread begins another call.
            self._fail(str(error))
            raise

    def _settle(self, call: Call, future: Future[list[Outcome]]) -> None:
        """Note what became of a call that has ended."""
        devices = call.batch.devices
        try:
            outcomes = future.result()
        except Refused as error:
            self._refuse(call.batch, error)
        except Unanswered as error:
            first, last = devices[0].line, devices[-1].line
            self._display.say(f"No answer for lines {first} to {last}: {error}")
            self._note(devices, [])
            # It may be these devices: another program may hold one of them. If no other
            # call fares better it is not.
            if self._last_answer < call.start:
                self._fail(f"no call was answered any more: {error}")
        except (Hopeless, Stopped):
            self._note(devices, [])
        else:
            self._last_answer = time.monotonic()
            self._note(devices, outcomes)

    def _refuse(self, batch: Batch, error: Refused) -> None:
        """Send the halves of ``batch``, until it is clear what was refused."""
        self._last_answer = time.monotonic()
        if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self._batcher.lower(len(batch.body) // 2)
        if len(batch.devices) > 1:
            self._halves.extend(halves(batch))
            return
        [device] = batch.devices
        self._display.problem(
            Problem(device.number, device.line, device.identifier, str(error))
        )
        self._note(batch.devices, [Outcome(device.number, "", "refused")])

    def _note(
        self, devices: Sequence[Device | Problem], outcomes: Sequence[Outcome]
    ) -> None:
        self._journal.record(devices, outcomes)
        self._display.tally.statuses.update(outcome.status for outcome in outcomes)

    def _fail(self, reason: str) -> None:
        if not self._stop.is_set():
            self.failure = reason
            self._stop.set()


def _outcome(device: Device, results: Results) -> Outcome:
    """Return what ``results`` says of ``device``. Raises Hopeless if nothing."""
    if device.identifier not in results:
        raise Hopeless(f"The answer does not name the device {device.identifier!r}.")
    return Outcome(device.number, *results[device.identifier])
