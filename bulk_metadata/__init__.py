"""Bulk device metadata: one request replaces the metadata of up to 1,000 devices.

The directories are layers, the lowest first. Each imports only from lower layers:

    core/       limits, error messages, JSON; shared by the service and the client
    config.py   the settings
    telemetry/  the access log and the metrics
    db/         PostgreSQL: connections, timeouts, SQL
    api/        the endpoint; routes.py shows the steps of a request
    server/     the gunicorn worker, the health checks and the metrics port
    files/      device files
    client/     the command bulk-metadata
    commands/   the flask commands for operators
    demo/       make run
"""

__version__ = "1.3.0"
