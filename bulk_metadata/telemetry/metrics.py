"""The metrics, with their names, descriptions and labels.

All label values are created here: gunicorn workers share only values that exist before
the fork, and Prometheus needs the 0 to see the first event as an increase.
"""

import platform

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from bulk_metadata import __version__
from bulk_metadata.telemetry.context import RequestContext
from bulk_metadata.telemetry.multiprocess import share_values

share_values()
disable_created_metrics()
# These metrics describe one process, but the metrics port responds for all workers.
for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR):
    REGISTRY.unregister(collector)

# Seconds. The range is from a fast error response to REQUEST_TIMEOUT.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter("bulk_metadata_requests", "Requests, by status.", ["status"])
for status in (200, 400, 401, 404, 405, 413, 414, 417, 431, 500, 501):
    REQUESTS.labels(str(status))
DURATION = Histogram(
    "bulk_metadata_request_duration_seconds", "Response time.", buckets=SECONDS
)
BATCH = Histogram(
    "bulk_metadata_request_devices",
    "Devices per valid request.",
    buckets=(1, 10, 50, 100, 250, 500, 1000),
)
DEVICES = Counter(
    "bulk_metadata_devices", "Devices of completed requests, by result.", ["result"]
)
UPDATED = DEVICES.labels("updated")
NOT_FOUND = DEVICES.labels("not_found")
DATABASE = Histogram(
    "bulk_metadata_database_duration_seconds",
    "Time in PostgreSQL, for requests that use it.",
    buckets=SECONDS,
)
RETRIES = Counter("bulk_metadata_retries", "Retried statements, by cause.", ["cause"])
for cause in ("connection", "deadlock", "serialization"):
    RETRIES.labels(cause)
POOL_SIZE = Gauge("bulk_metadata_pool_size", "Maximum size of the pools.")
POOL_IN_USE = Gauge("bulk_metadata_pool_in_use", "Pooled connections in use.")
POOL_WAITING = Gauge("bulk_metadata_pool_waiting", "Threads waiting for a connection.")
POOL_TIMEOUTS = Counter(
    "bulk_metadata_pool_timeouts",
    "Timeouts while waiting for a connection, including those of /readyz.",
)
BUILD_INFO = Gauge(
    "bulk_metadata_build_info",
    "The version in use; the value is always 1.",
    ["version", "python"],
    multiprocess_mode="livemax",
).labels(__version__, platform.python_version())


def count(context: RequestContext, status: int) -> None:
    """Count a request with the response ``status``."""
    REQUESTS.labels(str(status)).inc()
    DURATION.observe(context.seconds)
    if context.database_seconds:
        DATABASE.observe(context.database_seconds)
    if context.devices is not None:
        BATCH.observe(context.devices)
    if context.is_dry_run:
        return  # a dry run updates no device
    if context.updated is not None and context.not_found is not None:
        UPDATED.inc(context.updated)
        NOT_FOUND.inc(context.not_found)


def exposition() -> tuple[bytes, str]:
    """Return the metrics of all workers in Prometheus text format, and its type."""
    return generate_latest(), CONTENT_TYPE_LATEST
