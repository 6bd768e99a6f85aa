"""Device files: the options that describe a file, for all commands that read one."""

import codecs
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])

UTF_8 = "utf-8"

# Each encoding of a device file contains these characters as the same bytes.
ASCII = bytes(range(128))


@dataclass(frozen=True)
class Options:
    """The properties of a device file that its content does not determine."""

    # Determined by the file name extension if None.
    file_format: str | None = None
    encoding: str = UTF_8
    identifier_column: str = "identifier"
    # Whether a device without metadata is valid. Its metadata is {}.
    allow_empty: bool = False
    # Maximum size of a request with one device in bytes.
    max_bytes: int | None = None
    # The format if the extension is unknown, which is an error if this is None.
    default_format: str | None = None


def _encoding(_: click.Context, __: click.Parameter, name: str) -> str:
    """Return the normalized name of an encoding. Raises click.BadParameter."""
    try:
        normalized = codecs.lookup(name).name
        is_known = "utf-16" in normalized or ASCII.decode().encode(name) == ASCII
    except (LookupError, ValueError):
        is_known = False
    if not is_known:
        raise click.BadParameter(f'unknown encoding "{name}". Example: windows-1252')
    return normalized


def file_options(command: Command) -> Command:
    """Add the options file_format, encoding and identifier_column to a command."""
    for option in (
        click.option(
            "--identifier-column",
            metavar="NAME",
            default=Options.identifier_column,
            show_default=True,
            help="Name of the identifier column in a CSV or TSV file.",
        ),
        click.option(
            "--encoding",
            default=UTF_8,
            show_default=True,
            callback=_encoding,
            help="Encoding of the file, for example windows-1252. A byte order mark "
            "takes precedence.",
        ),
        click.option(
            "--format",
            "file_format",
            type=click.Choice(["ndjson", "json", "csv", "tsv"]),
            help="Format of the file.  [default: determined by the extension]",
        ),
    ):
        command = option(command)
    return command
