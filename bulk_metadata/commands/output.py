"""The standard streams of the commands, which may be closed or fail."""

import sys
from io import TextIOWrapper
from typing import Any, NoReturn, TextIO, cast

import click

from bulk_metadata.db.transaction import raise_interrupt


class Command(click.Command):
    """A command whose output causes no traceback: characters that the terminal cannot
    display are escaped, and a failed write is reported."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if sys.stdout is not None:
            cast(TextIOWrapper, sys.stdout).reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click exits without a message, for example after "| head".
        except OSError as error:
            fail(error)


def fail(error: OSError, consequence: str = "") -> NoReturn:
    """Raise click.ClickException for an error of standard output."""
    # Otherwise Python writes the buffered text again when it exits.
    sys.stdout = None
    reason = f"Cannot write to standard output: {error.strerror or error}"
    raise click.ClickException(reason + consequence) from None


def standard_output() -> TextIO:
    """Return standard output. Raises OSError if it is closed."""
    if sys.stdout is None:
        raise OSError("it is closed")
    return sys.stdout


def report(message: str | bytes, *, err: bool = False) -> None:
    """Print the result of a change. If this fails, the exit code still reports it."""
    try:
        click.echo(message, err=err)
    except OSError:
        setattr(sys, "stderr" if err else "stdout", None)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a standard stream, which may be closed, is a terminal."""
    return stream is not None and stream.isatty()


def progress_bar(values: Any = None, *, hidden: bool = False, **options: Any) -> Any:
    """Return a progress bar on standard error, which is hidden unless it is a
    terminal."""
    hidden = hidden or not is_terminal(sys.stderr)
    return click.progressbar(values, file=sys.stderr, hidden=hidden, **options)


def confirm(question: str, *, err: bool = False) -> None:
    """Ask for confirmation. Raises click.Abort unless the answer is yes, and
    click.ClickException if a standard stream is closed."""
    raise_interrupt()
    if None in (sys.stdin, sys.stdout, sys.stderr):
        raise click.ClickException(
            "Cannot ask for confirmation because a standard stream is closed. Use "
            "--yes."
        )
    click.confirm(question, abort=True, err=err)
