"""The client: ``python -m bulk_metadata.client push`` sends a whole fleet from a file.

The way of one file, in reading order:

    __main__.py  the command and its options
    push.py      the run, told from the file's first byte to its result file
    source.py    a file or standard input, plain or gzip -> bytes, as often as needed
    reader.py    bytes -> devices, by format: ndjson.py, json_body.py, table.py
    judge.py     what the API would refuse
    check.py     all that is wrong with the file, before anything is sent
    batch.py     devices -> batches, each the body of a call
    send.py      batches -> outcomes, several calls at a time
    api.py       one call: sent, and tried again while that may help
    answer.py    what comes back, and what else can become of a call
    journal.py   what has become of each device, so that a run can go on after any end
    results.py   the result file
    summary.py   what is said in the end, and the exit code

Beside it: device.py (a device of the file, and a problem), lines.py (lines of text),
column.py (a table's columns), tally.py (the counts), display.py and bar.py (what is
seen meanwhile), shown.py (text from elsewhere), stop.py (Ctrl-C).

It needs no database, and of the service nothing but what both must agree on:
json_text.py and jsonb.py, which tell what JSON is and what PostgreSQL holds of it.
"""
