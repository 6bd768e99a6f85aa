"""Liveness and readiness endpoints."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue

from bulk_metadata.db.pool import Database, DatabaseError, PoolTimeoutError
from bulk_metadata.db.queries import check_schema

logger = logging.getLogger(__name__)

blueprint = Blueprint("health", __name__)

# Seconds. /readyz responds within one second, before health checks time out.
POOL_TIMEOUT = 0.5
CHECK_TIMEOUT = 0.9

# SQLSTATEs: undefined table, undefined column, insufficient privilege.
SCHEMA_ERRORS = ("42P01", "42703", "42501")


@blueprint.get("/healthz", provide_automatic_options=False)
def healthz() -> ResponseReturnValue:
    """Return 200 from a process that responds. PostgreSQL is not checked, because a
    restart of the service would not make it available."""
    return {"status": "ok"}


@blueprint.get("/readyz", provide_automatic_options=False)
def readyz() -> ResponseReturnValue:
    """Return 200 if PostgreSQL can process requests, otherwise 503 and the reason."""
    readiness: Readiness = current_app.extensions["readiness"]
    if reason := readiness.check():
        return {"error": reason}, 503
    return {"status": "ready"}


class Readiness:
    """The readiness check. Concurrent requests share one query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._lock = threading.Lock()
        self._query: Future[str | None] | None = None

    def check(self) -> str | None:
        """Return the reason why the service is not ready, or None, within a second."""
        with self._lock:
            if self._query is None or self._query.done():
                self._query = self._executor.submit(self._run_query)
            query = self._query
        try:
            return query.result(CHECK_TIMEOUT)
        except TimeoutError:
            return "PostgreSQL does not respond"

    def _run_query(self) -> str | None:
        try:
            is_writable = self._database.run(check_schema, pool_timeout=POOL_TIMEOUT)
        except DatabaseError as error:
            logger.warning("Not ready: %s", error)
            return public_reason(error)
        return None if is_writable else "PostgreSQL is read-only"


def public_reason(error: DatabaseError) -> str:
    """Return the reason without the details, which are only logged."""
    if isinstance(error, PoolTimeoutError):
        return "All connections are in use"
    if error.sqlstate in SCHEMA_ERRORS:
        return "The schema is missing or out of date: run flask init-db"
    return "PostgreSQL cannot be reached"
