"""Where the time goes: a request for 1,000 devices, step by step."""

import time
from contextlib import closing
from itertools import pairwise
from typing import Any

import msgspec
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from benchmarks.client import Client
from benchmarks.fleet import Fleet, body
from benchmarks.measure import over_http, sample
from bulk_metadata.api.request import parse_body
from bulk_metadata.api.response import build_response
from bulk_metadata.api.validation import validate
from bulk_metadata.config import Config
from bulk_metadata.core.api_key import digest
from bulk_metadata.db.connection import connect_service
from bulk_metadata.db.queries import select_api_key, update_metadata

KEY = "look up the key"
PARSE = "parse the body"
VALIDATE = "validate it"
DRIVER = "quote documents, read rows (psycopg2)"
STATEMENT = "the UPDATE (PostgreSQL)"
ANSWER = "build the answer"
ENCODE = "write it as JSON"
REST = "gunicorn, Flask, loopback"


class Stopwatch(Cursor):
    """A cursor that knows how long PostgreSQL took."""

    seconds = 0.0

    def execute(self, query: Any, vars: Any = None) -> None:
        """Execute ``query`` and note the time."""
        start = time.perf_counter()
        super().execute(query, vars)
        self.seconds = time.perf_counter() - start


def measure_budget(
    service_url: str, port: int, fleet: Fleet, batch: int, rounds: int
) -> dict[str, float]:
    """Return the medians of all steps in milliseconds.

    The steps are taken here, side by side with whole requests to the service at
    ``port``: what those take more is the rest.
    """
    times: dict[str, list[float]] = {}
    whole: list[float] = []
    config = Config(database_url=service_url)
    with (
        closing(connect_service(config)) as connection,
        Client(port, fleet.key) as client,
    ):
        request = over_http(client)
        for _ in range(rounds):
            whole.append(request(fleet.documents(batch)) * 1000)
            for step, seconds in run_steps(connection, fleet, batch).items():
                times.setdefault(step, []).append(seconds * 1000)
    budget = {step: sample(each).median for step, each in times.items()}
    return {**budget, REST: sample(whole).median - sum(budget.values())}


def run_steps(connection: Connection, fleet: Fleet, batch: int) -> dict[str, float]:
    """Take one request's steps in the service's order; return the seconds of each."""
    text = body(fleet.documents(batch))
    with (
        connection.cursor() as cursor,
        connection.cursor(cursor_factory=Stopwatch) as stopwatch,
    ):
        times = [time.perf_counter()]
        select_api_key(cursor, digest(fleet.key))
        times.append(time.perf_counter())
        parsed = parse_body(text)
        times.append(time.perf_counter())
        documents = validate(parsed)
        times.append(time.perf_counter())
        device_ids = update_metadata(stopwatch, fleet.organization_id, documents)
        times.append(time.perf_counter())
        result = build_response(documents, device_ids)
        times.append(time.perf_counter())
        msgspec.json.encode(result)
        times.append(time.perf_counter())
    key, parse, judge, update, build, encode = (
        end - start for start, end in pairwise(times)
    )
    return {
        KEY: key,
        PARSE: parse,
        VALIDATE: judge,
        DRIVER: update - stopwatch.seconds,
        STATEMENT: stopwatch.seconds,
        ANSWER: build,
        ENCODE: encode,
    }
