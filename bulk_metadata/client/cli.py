"""The command ``bulk-metadata``: options, API key, and exit code."""

import codecs
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from bulk_metadata import __version__
from bulk_metadata.client.connection import TlsFiles
from bulk_metadata.client.journal import Journal, JournalError
from bulk_metadata.client.output import protect_output
from bulk_metadata.client.progress import Display, make_display
from bulk_metadata.client.push import (
    InvalidFileError,
    Settings,
    check,
    push,
)
from bulk_metadata.client.report import FAILED, SUFFIXES, Summary
from bulk_metadata.client.retry import RequestError
from bulk_metadata.client.signals import Stop, StoppedError
from bulk_metadata.client.transport import endpoint
from bulk_metadata.core.limits import DEFAULT_MAX_BODY_BYTES, MAX_DEVICES
from bulk_metadata.core.text import counted
from bulk_metadata.files import Options, file_options
from bulk_metadata.files.device import FileError
from bulk_metadata.files.formats import UnknownFormatError
from bulk_metadata.files.reader import DeviceFile
from bulk_metadata.files.source import STDIN, Source

EXPECTED_ERRORS = (
    click.ClickException,
    InvalidFileError,
    JournalError,
    RequestError,
    OSError,
    ValueError,
)

KEY_VARIABLE = "BULK_METADATA_API_KEY"

# A line of a header file for curl.
KEY_HEADER = re.compile(r"^[\s\ufeff]*x-api-key\s*:(.*)$", re.IGNORECASE | re.MULTILINE)

CHECK_EXIT_CODES = """\b
Exit codes:
  0    the file has no errors
  1    the file has errors: they are on standard error
  2    the command or an option is invalid
"""

PUSH_EXIT_CODES = """\b
Exit codes:
  0    all devices were updated
  1    some devices were not updated: the reason is on standard error
  2    the command or an option is invalid
  3    some devices were not found
  129  stopped by SIGHUP
  130  stopped by Ctrl-C (SIGINT)
  143  stopped by SIGTERM
"""

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

COMMON_OPTIONS = [
    click.argument(
        "file", type=click.Path(exists=True, dir_okay=False, allow_dash=True)
    ),
    file_options,
    click.option(
        "--allow-empty",
        is_flag=True,
        help="Accept devices without metadata. Their existing metadata is removed.",
    ),
    click.option(
        "--max-body-bytes",
        type=click.IntRange(1),
        default=DEFAULT_MAX_BODY_BYTES,
        show_default=True,
        help="Maximum size of a request: MAX_BODY_BYTES of the service.",
    ),
    click.option("--quiet", is_flag=True, help="Print only errors."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print errors and summary as JSON."
    ),
]


def common_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that all commands for device files share."""
    for option in reversed(COMMON_OPTIONS):
        command = option(command)
    return command


@click.group()
@click.version_option(__version__, message="%(version)s")
def commands() -> None:
    """Upload the metadata of a fleet of devices from a file."""


@commands.command("push", epilog=PUSH_EXIT_CODES)
@common_options
@click.option(
    "--url", required=True, help="Base URL of the service, for example https://host."
)
@click.option(
    "--key-file",
    type=FILE,
    help=f"File with the API key, or with a curl header.  [default: {KEY_VARIABLE}]",
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Result file, .csv or .ndjson.  [default: FILE.results.csv]",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--dry-run", is_flag=True, help="Report the results of a run, without writing."
)
@click.option(
    "--check/--no-check",
    default=True,
    help="Validate the complete file before sending. With --no-check, skip and report "
    "invalid devices.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1, MAX_DEVICES),
    default=MAX_DEVICES,
    show_default=True,
    help="Maximum number of devices per request.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Number of concurrent requests.",
)
@click.option(
    "--attempts",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Maximum number of attempts per request.",
)
@click.option(
    "--cacert",
    type=FILE,
    help="CA certificates in PEM format.  [default: SSL_CERT_FILE, or the system CAs]",
)
@click.option(
    "--cert",
    type=FILE,
    help="Client certificate, and optionally its key, in PEM.",
)
@click.option("--key", type=FILE, help="Key of the client certificate, in PEM.")
@click.pass_obj
def push_command(
    summary: Summary,
    /,
    file: str,
    file_format: str | None,
    encoding: str,
    identifier_column: str,
    allow_empty: bool,
    max_body_bytes: int,
    url: str,
    key_file: Path | None,
    results: Path | None,
    quiet: bool,
    as_json: bool,
    cacert: Path | None,
    cert: Path | None,
    key: Path | None,
    **options: Any,
) -> None:
    """Replace the metadata of the devices in FILE.

    FILE is a CSV, TSV, NDJSON or JSON file, also compressed with gzip, or "-" for
    standard input. The proxy variables http_proxy, https_proxy and no_proxy apply.
    """
    kind = "dry-run" if options["dry_run"] else "results"
    results = results or Path(f"{'stdin' if file == STDIN else file}.{kind}.csv")
    if results.suffix not in SUFFIXES:
        raise click.UsageError(f"--results must end in one of: {', '.join(SUFFIXES)}")
    if file != STDIN and results.exists() and results.samefile(file):
        raise click.UsageError("--results must not be the file that is pushed.")
    address, tls_files = address_of(url), TlsFiles(cacert, cert, key)
    if any(tls_files) and not address.startswith("https:"):
        raise click.UsageError("--cacert, --cert and --key require https:// in --url.")
    settings = Settings(
        address,
        read_key(key_file, is_piped=file == STDIN),
        tls_files,
        results,
        results.with_name(f"{results.name}.journal"),
        max_body_bytes=max_body_bytes,
        **options,
    )
    described = Options(
        file_format, encoding, identifier_column, allow_empty, max_body_bytes
    )
    with running(summary, file, quiet=quiet, as_json=as_json) as (display, stop):
        device_file = open_file(file, described, stop)
        try:
            push(device_file, settings, summary, display, stop)
        except sqlite3.Error as error:
            raise click.ClickException(
                f"Cannot write {settings.journal}: {error}. "
                "Use --results to choose another file."
            ) from None
    if not (quiet or as_json):
        click.echo(summary.as_text())


@commands.command("check", epilog=CHECK_EXIT_CODES)
@common_options
@click.pass_obj
def check_command(
    summary: Summary,
    /,
    file: str,
    quiet: bool,
    as_json: bool,
    max_body_bytes: int,
    **options: Any,
) -> None:
    """Validate FILE, or standard input if FILE is "-", without sending it."""
    described = Options(max_bytes=max_body_bytes, **options)
    with (
        running(summary, file, quiet=quiet, as_json=as_json) as (display, stop),
        tempfile.TemporaryDirectory() as directory,
    ):
        device_file = open_file(file, described, stop)
        journal = Journal(Path(directory, "journal"), {}, resume=False)
        try:
            check(device_file, device_file.read(), journal, display, stop)
            display.statistics.statuses.update(journal.counts())
        finally:
            journal.close(delete=False)
    if not (quiet or as_json):
        devices = counted(display.statistics.statuses.total(), "device")
        click.echo(f"{summary.name}: {devices}, no errors")


@contextmanager
def running(
    summary: Summary, file: str, *, quiet: bool, as_json: bool
) -> Iterator[tuple[Display, Stop]]:
    """Display the progress of a run, handle signals, and complete ``summary``. Raises
    InvalidFileError instead of FileError, after the problem is printed."""
    start = time.monotonic()
    stop = Stop()
    summary.name = "standard input" if file == STDIN else file
    with make_display(summary.name, quiet=quiet, as_json=as_json) as display:
        summary.statistics = display.statistics
        stop.handle_signals(display.message, display.restore)
        try:
            yield display, stop
        except FileError as error:
            display.problem(error.as_problem())
            raise InvalidFileError("1 error. Nothing was sent") from None
        finally:
            summary.signal = stop.signal
            summary.seconds = time.monotonic() - start


def open_file(path: str, options: Options, stop: Stop) -> DeviceFile:
    """Open the file and detect its type. Raises FileError if it is not a device
    file."""
    with stop.raising():
        source = Source(path)
    try:
        return DeviceFile(source, options)
    except UnknownFormatError as error:
        raise click.UsageError(str(error)) from None


def address_of(url: str) -> str:
    """Return the address of the API at ``url``."""
    try:
        return endpoint(url)
    except ValueError as error:
        raise click.UsageError(f"--url {error}.") from None


def read_key(key_file: Path | None, *, is_piped: bool) -> str:
    """Return the API key. It is never an argument, which all users of the machine can
    read."""
    text = os.environ.get(KEY_VARIABLE, "")
    if key_file:
        data = key_file.read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_utf16 else "utf-8", "replace")
    elif not text.strip() and not is_piped and sys.stdin and sys.stdin.isatty():
        text = click.prompt("API key", hide_input=True, err=True)
    if header := KEY_HEADER.search(text):
        text = header[1]
    key = text.strip().strip("\ufeff").strip()
    if not key:
        if key_file:
            raise click.UsageError(f"{key_file} contains no API key.")
        raise click.UsageError(f"No API key. Set {KEY_VARIABLE} or use --key-file.")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise click.UsageError("The API key contains invalid characters.")
    return key


def main(prog_name: str = "bulk-metadata") -> NoReturn:
    """Run the command, and exit. No error causes a traceback."""
    protect_output()
    summary = Summary()
    code = None
    try:
        code = commands.main(prog_name=prog_name, standalone_mode=False, obj=summary)
    except click.UsageError as error:
        error.show()
        summary.failure, code = error.format_message(), error.exit_code
    except click.Abort:
        code = 128 + signal.SIGINT
    except StoppedError:
        click.echo("Stopped before anything was sent.", err=True)
    except EXPECTED_ERRORS as error:
        summary.failure = str(error)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        summary.failure = (
            f"internal error: {error!r} ({frame.name}, line {frame.lineno})"
        )
    code = summary.exit_code if code is None else code
    if code == FAILED:
        click.echo(f"Error: {summary.reason.removesuffix('.')}.", err=True)
    if summary.journal:
        click.echo("To continue, run the same command with --resume.", err=True)
    if "--json" in sys.argv:
        click.echo(summary.as_json())
    sys.exit(code)
