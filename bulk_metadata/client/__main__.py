"""Run the client with ``python -m bulk_metadata.client``."""

from bulk_metadata.client.cli import main

main("python -m bulk_metadata.client")
