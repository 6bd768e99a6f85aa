"""``make bench``: measure the service beside bare statements and beside its peers.

Runs a PostgreSQL of its own, and sends traffic to this machine only.
"""

from dataclasses import replace
from pathlib import Path

import click

from benchmarks.load import Bursts
from benchmarks.plot import plot
from benchmarks.report import report
from benchmarks.run import Effort, run

HERE = Path(__file__).parent


EFFORTS = {
    # For a change that may cost time: are the ratios still what they were?
    "quick": Effort((5_000, 100_000), (100, 40), 4, Bursts(1, 2.0), 300, 5_000, 20),
    "full": Effort(
        (5_000, 100_000, 1_000_000),
        (500, 150),
        40,
        Bursts(3, 3.0),
        20_000,
        10_000,
        200,
    ),
    # For the benchmark's own test.
    "least": Effort((1_000, 2_000), (2, 2), 2, Bursts(1, 0.2), 5, 1_000, 2),
}


@click.command()
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="full")
@click.option(
    "--fleet", "fleets", type=int, multiple=True, help="Instead of its fleets."
)
@click.argument("output", default=HERE, type=click.Path(path_type=Path))
def main(effort: str, fleets: tuple[int, ...], output: Path) -> None:
    """Run the benchmark; write RESULTS.md and results.svg into the folder OUTPUT."""
    command = f"python -m benchmarks --effort {effort}"
    chosen = EFFORTS[effort]
    results = run(replace(chosen, fleets=tuple(sorted(fleets)) or chosen.fleets))
    text = report(results, command)
    click.echo(f"\n{text}")
    output.mkdir(parents=True, exist_ok=True)
    (output / "RESULTS.md").write_text(text)
    plot(results, output / "results.svg")


main()
