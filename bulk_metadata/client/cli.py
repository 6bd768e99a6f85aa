"""The command: ``python -m bulk_metadata.client push FILE --url ...``."""

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bulk_metadata.client.bar import Bar
from bulk_metadata.client.check import Unsound
from bulk_metadata.client.journal import JournalError
from bulk_metadata.client.progress import Display, Lines
from bulk_metadata.client.push import Plan, push
from bulk_metadata.client.report import Summary
from bulk_metadata.client.results import SUFFIXES
from bulk_metadata.client.retry import Hopeless, Unanswered
from bulk_metadata.client.signals import Stop, Stopped
from bulk_metadata.client.transport import endpoint
from bulk_metadata.files.reader import FORMATS, READERS
from bulk_metadata.files.source import STDIN, Source

KEY_VARIABLE = "BULK_METADATA_API_KEY"


@click.group()
def main() -> None:
    """Replace the metadata of whole fleets of devices."""


@main.command("push")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--url", required=True, help="Of the service, like https://host.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(list(READERS)),
    help="Of the file, unless its name tells.",
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write what became of each device, as .csv or .ndjson.  "
    "[default: FILE.results.csv]",
)
@click.option("--resume", is_flag=True, help="Go on with a run that was not finished.")
@click.option("--dry-run", is_flag=True, help="Write nothing; tell what would be done.")
@click.option(
    "--check/--no-check",
    default=True,
    help="All of the file before anything is sent; else what is wrong is left out.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, 1000),
    default=1000,
    show_default=True,
    help="Devices in a call.",
)
@click.option(
    "--max-body-bytes",
    type=click.IntRange(1),
    default=10 * 1024 * 1024,
    show_default=True,
    help="Bytes in a call: the service's MAX_BODY_BYTES.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Calls at a time.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Of a call, before the run ends, to be resumed.",
)
@click.option("--quiet", is_flag=True, help="Show nothing but what goes wrong.")
@click.option("--json", "as_json", is_flag=True, help="Summary and problems as JSON.")
def push_command(
    file: str,
    url: str,
    file_format: str | None,
    results: Path | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Replace the metadata of the devices in FILE, or standard input if that is -.

    FILE is NDJSON, the API's own JSON body, CSV or TSV, plain or gzip. The key is the
    environment's BULK_METADATA_API_KEY, or asked for.

    The exit code is 0 if all devices were updated, 3 if some were not found, 1 if it
    failed for some or all, 2 for a wrong command, and 130 after Ctrl-C.
    """
    name = "standard input" if file == STDIN else file
    results = results or default_results(file, dry_run=options["dry_run"])
    if results.suffix not in SUFFIXES:
        raise click.UsageError(f"--results must end in one of: {', '.join(SUFFIXES)}")
    if file != STDIN and results.exists() and results.samefile(file):
        raise click.UsageError("--results must not be the file that is pushed.")
    key = read_key(is_piped=file == STDIN)
    journal = results.with_name(f"{results.name}.journal")
    stop = Stop()
    start = time.monotonic()
    with errors_shown(journal, stop), make_display(name, quiet, as_json) as display:
        stop.on_signals(display.say, display.leave)
        plan = Plan(
            Source(file),
            file_format or format_of(file),
            address_of(url),
            key,
            results,
            journal,
            **options,
        )
        failure = push(plan, display, stop)
    seconds = time.monotonic() - start
    resumable = journal if journal.exists() else None
    summary = Summary(
        name, display.tally, seconds, results, resumable, failure, stop.signal
    )
    if as_json:
        click.echo(summary.as_json())
    elif not quiet or summary.failure:
        click.echo(summary.as_text())
    sys.exit(summary.exit_code)


@contextmanager
def errors_shown(journal: Path, stop: Stop) -> Iterator[None]:
    """Let errors end the command with their sentence."""
    try:
        yield
    except (Unsound, JournalError, Hopeless, Unanswered, OSError) as error:
        raise click.ClickException(str(error)) from None
    except sqlite3.Error as error:
        raise click.ClickException(
            f"{journal}: {error}. Another place: --results"
        ) from None
    except Stopped:
        click.echo("Ended before anything was sent.", err=True)
        sys.exit(128 + stop.signal)


def make_display(name: str, quiet: bool, as_json: bool) -> Display:
    """Return what shows the progress to whoever looks at standard error."""
    if quiet:
        return Display(name, as_json=as_json)
    return (Bar if sys.stderr.isatty() else Lines)(name, as_json=as_json)


def format_of(file: str) -> str:
    """Return the format that the name of ``file`` tells, which may end in .gz."""
    suffix = Path(file.lower().removesuffix(".gz")).suffix
    if suffix not in FORMATS:
        raise click.UsageError(
            f"The name must end in one of: {', '.join(FORMATS)}; or --format must tell."
        )
    return FORMATS[suffix]


def address_of(url: str) -> str:
    """Return where the API is at ``url``."""
    try:
        return endpoint(url)
    except ValueError as error:
        raise click.UsageError(f"--url {error}.") from None


def default_results(file: str, *, dry_run: bool) -> Path:
    """Return a name beside ``file``; a dry run's is another one."""
    kind = "dry-run" if dry_run else "results"
    return Path(f"{'stdin' if file == STDIN else file}.{kind}.csv")


def read_key(*, is_piped: bool) -> str:
    """Return the key: never an argument, which all of the machine could see."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        if is_piped or not sys.stdin or not sys.stdin.isatty():
            raise click.UsageError(f"Set {KEY_VARIABLE} to the key.")
        key = click.prompt("API key", hide_input=True, err=True).strip()
    if not (key.isascii() and key.isprintable()):
        raise click.UsageError("The key has characters that no key has.")
    return key
