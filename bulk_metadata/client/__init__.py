"""The fleet client: the command ``bulk-metadata``.

The modules in reading order:

    cli.py         options, API key, exit code
    push.py        one upload, from the first byte of the file to the result file
    batches.py     devices -> batches, each the body of a request
    sender.py      concurrent requests, and their results
    retry.py       the retry policy, and the interpretation of responses
    transport.py   one request
    connection.py  proxies, TLS and timeouts
    journal.py     the state for --resume
    report.py      statistics, summary, exit code and result file
    progress.py    progress bar or lines
    signals.py     SIGINT, SIGTERM and SIGHUP

The package bulk_metadata.files reads the file.
"""
