"""Whether the process answers, and whether it can do its work: for whoever restarts it,
and for whoever sends it requests."""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from flask import Blueprint, current_app
from flask.typing import ResponseReturnValue

from bulk_metadata.db.pool import Database, DatabaseError, PoolTimeoutError
from bulk_metadata.db.queries import check_schema

logger = logging.getLogger(__name__)

blueprint = Blueprint("health", __name__)

# Seconds. Together they make an answer within one: what asks gives up soon after.
POOL_SECONDS = 0.5
CHECK_SECONDS = 0.9


@blueprint.get("/healthz", provide_automatic_options=False)
def healthz() -> ResponseReturnValue:
    """Say that the process answers. The database has no part in that: a restart of the
    service would not mend it."""
    return {"status": "ok"}


@blueprint.get("/readyz", provide_automatic_options=False)
def readyz() -> ResponseReturnValue:
    """Say whether a request would find what it needs."""
    readiness: Readiness = current_app.extensions["readiness"]
    if reason := readiness.reason_against():
        return {"error": reason}, 503
    return {"status": "ready"}


# No such table, no such column, no privilege.
SCHEMA_STATES = ("42P01", "42703", "42501")


class Readiness:
    """Asks the database, one question at a time however many ask us."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._lock = threading.Lock()
        self._check: Future[str | None] | None = None

    def reason_against(self) -> str | None:
        """Return within a second why the service is not ready; None if it is."""
        with self._lock:
            if self._check is None or self._check.done():
                self._check = self._executor.submit(self._ask)
            check = self._check
        try:
            return check.result(CHECK_SECONDS)
        except TimeoutError:
            return "PostgreSQL does not answer"

    def _ask(self) -> str | None:
        try:
            can_write = self._database.run(check_schema, pool_timeout=POOL_SECONDS)
        except DatabaseError as error:
            logger.warning("Not ready: %s", error)
            return sentence(error)
        return None if can_write else "PostgreSQL only reads"


def sentence(error: DatabaseError) -> str:
    """Return what anybody may know of ``error``."""
    if isinstance(error, PoolTimeoutError):
        return "All connections are in use"
    if error.sqlstate in SCHEMA_STATES:
        return "The schema is missing or out of date: run flask init-db"
    return "PostgreSQL cannot be reached"
