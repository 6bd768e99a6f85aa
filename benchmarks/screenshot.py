"""``make screenshot``: create docs/push.svg, a screenshot of an upload in a terminal.

It shows the progress bar at half time, and the final output.
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
COMMAND = "bulk-metadata push fleet.csv --url http://127.0.0.1:8000"

HEADER = "identifier,firmwareVersion,status,location.building,battery:number\n"
ROW = "SN-{:08},3.2.1,active,Building A,98.60\n"

# Control sequences except colors.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]|\r")

# The template of rich, without the fonts that it loads from the network.
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
    """Write a table of the existing devices, and one that does not exist."""
    rows = (ROW.format(number) for number in range(devices + 1))
    path.write_text(HEADER + "".join(rows))


def run_in_terminal(command: list[str], directory: Path, **variables: str) -> str:
    """Return the output of ``command`` in a terminal."""
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
        command,
        cwd=directory,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    output = io.BytesIO()
    # Linux raises OSError after the last process has closed the terminal.
    with open(master, "rb", buffering=0) as terminal, suppress(OSError):
        shutil.copyfileobj(terminal, output)
    process.wait()
    return output.getvalue().decode()


def select_frames(output: str) -> str:
    """Return the progress bar at half time, and the final output."""
    frames = [CONTROL.sub("", frame) for frame in output.split("\x1b[2K")]
    bars = [frame for frame in frames if "Sending" in frame]
    return f"{bars[len(bars) // 2].rstrip()}\n{frames[-1].strip()}"


def draw(text: str, path: Path) -> None:
    """Write ``text``, with its colors, as an SVG file."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True
    )
    console.print(Text.from_ansi(text))
    path.write_text(console.export_svg(title="push", code_format=SVG))


@click.command()
@click.option("--devices", default=100_000, show_default=True)
@click.argument(
    "output", default=ROOT / "docs" / "push.svg", type=click.Path(path_type=Path)
)
def main(devices: int, output: Path) -> None:
    """Upload a fleet, and write the screenshot to OUTPUT."""
    with tempfile.TemporaryDirectory(prefix="bulk-metadata-screenshot-") as name:
        directory = Path(name)
        write_file(directory / "fleet.csv", devices)
        click.echo(f"Creating {devices:,} devices ...")
        with postgres() as server:
            [fleet] = create_fleets(server, (devices,))
            log = directory / "log"
            with run_service(log, DATABASE_URL=server.service_url) as service:
                _, *arguments = COMMAND.replace("8000", str(service.port)).split()
                terminal = run_in_terminal(
                    [sys.executable, "-m", "bulk_metadata.client", *arguments],
                    directory,
                    BULK_METADATA_API_KEY=fleet.key,
                )
    draw(f"$ {COMMAND}\n{select_frames(terminal)}", output)


main()
