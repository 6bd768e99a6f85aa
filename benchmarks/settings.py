"""``python -m benchmarks.settings``: what settings of PostgreSQL do to this load.

Each side of a trial has a server of its own, and all of a trial's servers run at once:
every round calls each of them, in random order, with the service's own statement.
"""

from contextlib import ExitStack

import click

from benchmarks.bench import Bench, bench, count, updating
from benchmarks.fleet import Neighbours
from benchmarks.measure import WARM_UP_ROUNDS, Sample, side_by_side
from benchmarks.memory import MB
from benchmarks.sections import table
from benchmarks.storage import BATCH, sizes, wait_for_updates
from benchmarks.trials import TRIALS, Trial

COLUMNS = (
    "1,000 devices",
    "ms (p99)",
    "ratio",
    "WAL, bytes a device",
    "heap-only",
    "checkpoints",
    "table, MiB",
    "indexes, MiB",
)


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the rounds.")
@click.option("--fleet", type=int, help="Devices, instead of each trial's own number.")
@click.option("--rounds", type=int, help="Instead of each trial's own number.")
@click.option("--only", default="", help="Only trials whose name has this in it.")
def main(quick: bool, fleet: int | None, rounds: int | None, only: str) -> None:
    """Measure all trials and print a table of them."""
    rows: list[tuple[str, ...]] = []
    for trial in TRIALS:
        if only.casefold() in trial.name.casefold():
            size = fleet or trial.fleet
            turns = rounds or trial.rounds // (10 if quick else 1)
            click.echo(f"{trial.name}: {size:,} devices, {turns:,} rounds ...")
            heading = f"**{trial.name}**, {size:,} devices, {turns:,} rounds"
            rows.append((heading, *[""] * (len(COLUMNS) - 1)))
            rows += run(trial, size, turns)
    click.echo(f"\n{table(COLUMNS, rows)}", nl=False)


def run(trial: Trial, size: int, rounds: int) -> list[tuple[str, ...]]:
    """Measure a trial's sides, each on a fleet of this size; return a row of each."""
    with ExitStack() as stack:
        benches = [stack.enter_context(bench(side, size)) for side in trial.sides]
        subjects = {each.side.name: updating(each) for each in benches}
        # What is called the same is in all of their fleets.
        fleet = benches[0].fleet
        if trial.neighbours:
            fleet = Neighbours(fleet.size, fleet.organization_id, fleet.key)
        samples = side_by_side(subjects, fleet, BATCH, rounds)
        first = samples[benches[0].side.name]
        return [
            row(each, samples[each.side.name], first, rounds + WARM_UP_ROUNDS)
            for each in benches
        ]


def row(bench: Bench, sample: Sample, first: Sample, calls: int) -> tuple[str, ...]:
    """Return a side's row of the table; its ratio is to the first side's time."""
    # A session that ends hands in what it has counted.
    bench.connection.close()
    before = bench.before
    wait_for_updates(bench.owner, before.updates + calls * BATCH)
    after = count(bench.owner)
    devices = after.updates - before.updates
    table_size, indexes_size = sizes(bench.owner)
    return (
        bench.side.name,
        f"{sample.median:.1f} ({sample.p99:.0f})",
        f"{sample.median / first.median:.2f} x",
        f"{(after.wal - before.wal) / devices:,.0f}",
        f"{(after.heap_only - before.heap_only) / devices:.1%}",
        f"{after.checkpoints - before.checkpoints:,}",
        f"{table_size / MB:,.0f}",
        f"{indexes_size / MB:,.0f}",
    )


if __name__ == "__main__":
    main()
