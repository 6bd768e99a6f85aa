"""The metrics, each with its name, its meaning and where it is counted.

Under gunicorn they are shared by all workers, as files in the folder that
operations.py makes: prometheus_client's multiprocess mode.
"""

from prometheus_client import Counter, Gauge, Histogram

from bulk_metadata.telemetry.context import RequestContext

# Seconds: from a refusal to REQUEST_TIMEOUT.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("bulk_metadata_requests", "Requests, by status.", ["status"])
# There from the start: the first failure is an increase, and not a number from nowhere.
for status in ("200", "500"):
    REQUESTS.labels(status)
DURATION = Histogram(
    "bulk_metadata_request_duration_seconds", "Time to answer.", buckets=SECONDS
)
BATCH = Histogram(
    "bulk_metadata_request_devices",
    "Devices in a valid request.",
    buckets=(1, 10, 50, 100, 250, 500, 1000),
)
DEVICES = Counter(
    "bulk_metadata_devices", "Devices of answered requests, by result.", ["result"]
)
UPDATED = DEVICES.labels("updated")
NOT_FOUND = DEVICES.labels("not_found")
DATABASE = Histogram(
    "bulk_metadata_database_duration_seconds",
    "A request's time in PostgreSQL, for requests that asked it.",
    buckets=SECONDS,
)
# database.py counts these.
RETRIES = Counter("bulk_metadata_retries", "Statements tried again.", ["cause"])
for cause in ("connection", "deadlock", "serialization"):
    RETRIES.labels(cause)
# "live" gauges are those of workers that are alive; the others go with their worker.
POOL_SIZE = Gauge(
    "bulk_metadata_pool_size",
    "Connections that the pools may have.",
    multiprocess_mode="livesum",
)
POOL_IN_USE = Gauge(
    "bulk_metadata_pool_in_use",
    "Connections of the pools that are in use.",
    multiprocess_mode="livesum",
)
POOL_WAITING = Gauge(
    "bulk_metadata_pool_waiting",
    "Threads that wait for a connection.",
    multiprocess_mode="livesum",
)
POOL_TIMEOUTS = Counter(
    "bulk_metadata_pool_timeouts",
    "Waits for a connection that were given up, those of /readyz included.",
)
# operations.py sets it.
BUILD_INFO = Gauge(
    "bulk_metadata_build_info",
    "The version that is running, always 1.",
    ["version", "python"],
    multiprocess_mode="livemax",
)


def count(context: RequestContext, status: int) -> None:
    """Count the request that was answered with ``status``."""
    REQUESTS.labels(str(status)).inc()
    DURATION.observe(context.seconds)
    if context.database_seconds:
        DATABASE.observe(context.database_seconds)
    if context.devices is not None:
        BATCH.observe(context.devices)
    if context.is_dry_run:
        return  # nothing came of its devices
    if context.updated is not None and context.not_found is not None:
        UPDATED.inc(context.updated)
        NOT_FOUND.inc(context.not_found)
