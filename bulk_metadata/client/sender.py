"""Concurrent requests: each batch is sent, and its results are recorded."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from http import HTTPStatus
from typing import NamedTuple

from bulk_metadata.client.batches import Batch, Batcher, split
from bulk_metadata.client.journal import Journal, Outcome
from bulk_metadata.client.progress import Display
from bulk_metadata.client.retry import Action, RequestError, Response
from bulk_metadata.client.signals import StoppedError
from bulk_metadata.core.text import shorten
from bulk_metadata.files.device import Device, Problem

# Batches that are prepared in advance, so that no thread waits for one.
PREPARED = 2

# Seconds between two updates of the progress while no request completes.
UPDATE_INTERVAL = 0.5

# Send a body, with retries, and return the response.
Send = Callable[[bytes], Response]


class Request(NamedTuple):
    """A request in flight."""

    batch: Batch
    # time.monotonic() when it was submitted.
    start: float


class Sender:
    """Sends devices, and records the results in the journal and the statistics."""

    def __init__(
        self,
        send: Send,
        batcher: Batcher,
        journal: Journal,
        display: Display,
        stop: threading.Event,
        *,
        dry_run: bool,
    ) -> None:
        """Once ``stop`` is set, no further batch is sent."""
        self._send = send
        self._batcher = batcher
        self._journal = journal
        self._display = display
        self._stop = stop
        self._updated = "would_update" if dry_run else "updated"
        self._halves: deque[Batch] = deque()
        self._last_response = 0.0
        #: The reason why the run ended before all devices were sent, or "".
        self.failure = ""

    def run(self, devices: Iterable[Device], concurrency: int) -> None:
        """Send ``devices`` in ``concurrency`` requests at a time. Raises
        sqlite3.Error."""
        batches = self._batcher.batches(devices)
        requests: dict[Future[list[Outcome]], Request] = {}
        with ThreadPoolExecutor(concurrency) as executor:
            try:
                while self._submit(batches, requests, executor, concurrency + PREPARED):
                    done, _ = wait(requests, UPDATE_INTERVAL, FIRST_COMPLETED)
                    for future in done:
                        self._record_result(requests.pop(future), future)
                    self._display.update(self._display.statistics.statuses.total())
            except BaseException:
                # Otherwise the requests in flight would be retried.
                self._stop.set()
                executor.shutdown(cancel_futures=True)
                # The service has processed the requests that were in flight.
                for future in [f for f in requests if not f.cancelled()]:
                    self._record_result(requests[future], future)
                raise

    def skip(self, problems: Sequence[Problem]) -> None:
        """Print and record devices that cannot be sent."""
        for problem in problems:
            self._display.problem(problem)
        outcomes = [Outcome(problem.number, "", "invalid") for problem in problems]
        self._record(problems, outcomes)

    def _submit(
        self,
        batches: Iterator[Batch],
        requests: dict[Future[list[Outcome]], Request],
        executor: Executor,
        limit: int,
    ) -> bool:
        """Submit up to ``limit`` requests. Return whether any is in flight."""
        while len(requests) < limit and (batch := self._next(batches)):
            future = executor.submit(self._send_batch, batch)
            requests[future] = Request(batch, time.monotonic())
        return bool(requests)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        if self._stop.is_set():
            return None
        return self._halves.popleft() if self._halves else next(batches, None)

    def _send_batch(self, batch: Batch) -> list[Outcome]:
        """Send a batch, in a thread. Raises RequestError or StoppedError."""
        try:
            response = self._send(batch.body)
        except RequestError as error:
            if error.action is Action.END:
                # Immediately, so that no thread sends another batch.
                self.fail(str(error))
            raise
        results = {result.identifier: result for result in response.results}
        outcomes = []
        for number, line, identifier, _ in batch.devices:
            if result := results.get(identifier):
                is_updated = result.status == "updated"
                status = self._updated if is_updated else result.status
                outcomes.append(Outcome(number, result.device_id, status))
            else:
                device = f'line {line}, device "{shorten(identifier)}"'
                self.fail(f"the response contains no result for {device}")
        return outcomes

    def _record_result(self, request: Request, future: Future[list[Outcome]]) -> None:
        """Record the outcome of a request that has ended."""
        devices = request.batch.devices
        try:
            outcomes = future.result()
        except RequestError as error:
            if error.action is Action.SPLIT:
                self._split(request.batch, error)
                return
            self._record(devices, [])
            if error.action is Action.RETRY:
                self._report_unsent(request, error)
        except StoppedError:
            self._record(devices, [])
        else:
            self._last_response = time.monotonic()
            self._record(devices, outcomes)

    def _report_unsent(self, request: Request, error: RequestError) -> None:
        """Report that all attempts failed. End the run if all other requests fail, too:
        otherwise another program may lock one of the devices."""
        first, last = request.batch.devices[0].line, request.batch.devices[-1].line
        self._display.message(f"Lines {first} to {last} were not sent: {error}")
        if self._last_response < request.start:
            self.fail(f"all requests fail: {error}")

    def _split(self, batch: Batch, error: RequestError) -> None:
        """Send the halves of ``batch``, until the rejected device is isolated."""
        self._last_response = time.monotonic()
        if error.kind == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            self._batcher.reduce(len(batch.body) // 2)
        if len(batch.devices) > 1:
            self._halves.extend(split(batch))
            return
        [device] = batch.devices
        self._display.problem(
            Problem(device.number, device.line, device.identifier, str(error))
        )
        self._record(batch.devices, [Outcome(device.number, "", "refused")])

    def _record(
        self, devices: Sequence[Device | Problem], outcomes: Sequence[Outcome]
    ) -> None:
        self._journal.record(devices, outcomes)
        self._display.statistics.statuses.update(outcome.status for outcome in outcomes)

    def fail(self, reason: str) -> None:
        """Stop the run, for the first ``reason``."""
        if not self._stop.is_set():
            self.failure = reason
            self._stop.set()
