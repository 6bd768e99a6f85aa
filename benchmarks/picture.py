"""``make picture``: docs/push.svg, the terminal of a real push as a picture.

One moment of the bar, and what is left on the terminal in the end.
"""

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from benchmarks.database import create_fleets, postgres
from tests.support.service import ROOT, run_service

COLUMNS = 100
COMMAND = "python -m bulk_metadata.client push fleet.csv --url http://127.0.0.1:8000"

HEADER = "identifier,firmwareVersion,status,location.building,battery:number\n"
# The last one does not exist.
ROW = "SN-{:08},3.2.1,active,Building A,98.60\n"

# Cursor movements and the like: all but colours.
MOVEMENT = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]|\r")

# As rich's own, but for the fonts that it would have loaded from elsewhere.
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, Menlo, Consolas, monospace;
  line-height: {line_height}px; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})"
   clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def write_file(path: Path, devices: int) -> None:
    """Write a table of so many devices and one more."""
    rows = (ROW.format(number) for number in range(devices + 1))
    path.write_text(HEADER + "".join(rows))


def run_in_terminal(command: list[str], folder: Path, **variables: str) -> str:
    """Return all that ``command`` writes to a terminal."""
    master, slave = pty.openpty()
    size = struct.pack("HHHH", 40, COLUMNS, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        **variables,
    }
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    written = io.BytesIO()
    # An error is how Linux tells that nobody writes any more.
    with open(master, "rb", buffering=0) as terminal, suppress(OSError):
        shutil.copyfileobj(terminal, written)
    process.wait()
    return written.getvalue().decode()


def scene(written: str) -> str:
    """Return what the picture shows: the bar in the middle, and the end."""
    frames = [MOVEMENT.sub("", frame) for frame in written.split("\x1b[2K")]
    bars = [frame for frame in frames if "Sending" in frame]
    return f"{bars[len(bars) // 2].rstrip()}\n{frames[-1].strip()}"


def draw(shown: str, path: Path) -> None:
    """Write ``shown``, with its colours, as a picture."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True
    )
    console.print(Text.from_ansi(shown))
    path.write_text(console.export_svg(title="push", code_format=SVG))


@click.command()
@click.option("--devices", default=100_000, show_default=True)
@click.argument(
    "output", default=ROOT / "docs" / "push.svg", type=click.Path(path_type=Path)
)
def main(devices: int, output: Path) -> None:
    """Push so many devices, and write the picture of it to OUTPUT."""
    with tempfile.TemporaryDirectory(prefix="bulk-metadata-picture-") as name:
        folder = Path(name)
        write_file(folder / "fleet.csv", devices)
        click.echo(f"Creating a fleet of {devices:,} devices ...")
        with postgres() as server:
            [fleet] = create_fleets(server, (devices,))
            with run_service(
                folder / "log", DATABASE_URL=server.service_url
            ) as running:
                command = COMMAND.replace("8000", str(running.port))
                command = command.replace("python", sys.executable, 1)
                written = run_in_terminal(
                    command.split(), folder, BULK_METADATA_API_KEY=fleet.key
                )
    draw(f"$ {COMMAND}\n{scene(written)}", output)


main()
