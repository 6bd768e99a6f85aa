"""Bulk device metadata: one HTTP call replaces the metadata of up to 1,000 devices.

The way of one request, in reading order; no step calls back:

    routes.py       the endpoint, and the request's story told top to bottom
    authenticate.py x-api-key header  -> organization, key     or ApiError 401
    dry_run.py      URL's query       -> is it a dry run?      or ApiError 400
    body.py         body bytes        -> parsed JSON           or ApiError 413, 400
    validation.py   parsed JSON       -> {identifier: document} or ApiError 400
    queries.py      the two statements -> {identifier: device id}
    response.py     one result for each identifier, in the body's order

Around it: config.py (settings), database.py, place.py and connection.py (the pool, the
places in it, and what is in those), errors.py (what becomes of an error), worker.py
(gunicorn's own refusals as JSON), watchdog.py (a limit for waits that have none),
api_key.py (what a key looks like), json_text.py (JSON as it stands), jsonb.py (what
PostgreSQL can hold).

What can be seen of it: record.py (what is known of a request), observe.py (what its
answer leaves behind: request_log.py, metrics.py), health.py (alive? ready?),
operations.py (the port for metrics and health) and multiprocess.py
(the metrics of all workers). For operators: commands/. For whoever sends a whole fleet:
client/. For a machine with only Python: demo/.
"""

__version__ = "1.2.0"
