"""The sections of the report: what was measured, in tables."""

from collections.abc import Iterable

from benchmarks.limit import BARE, FLOOR, SERVICE
from benchmarks.load import CLIENTS, SHARED
from benchmarks.memory import MB
from benchmarks.results import Results, goals


def goals_reached(results: Results) -> str:
    """Return the goals, and which of them are reached."""
    rows = [
        (goal.what, goal.measured, "yes" if goal.reached else "**no**")
        for goal in goals(results)
    ]
    return f"## Goals\n\n{table(('goal', 'measured', 'reached'), rows)}"


def limit(results: Results) -> str:
    """Return how near the service is to bare statements."""
    rows = []
    for (fleet, batch), samples in sorted(results.limit.items()):
        bare, floor, service = (samples[name] for name in (BARE, FLOOR, SERVICE))
        rows.append(
            (
                f"{fleet:,}",
                f"{batch:,}",
                f"{bare.median:.2f} ({bare.p99:.1f})",
                f"{floor.median:.2f} ({floor.p99:.1f})",
                f"{service.median:.2f} ({service.p99:.1f})",
                f"{service.median / bare.median:.2f} x",
                f"{service.median / floor.median:.2f} x",
                f"{service.median - bare.median:+.2f}",
            )
        )
    names = ("fleet", "devices", BARE, FLOOR, SERVICE, "to bare", "to floor", "above")
    return f"""## The limit

The whole HTTP request beside bare statements for the same devices, sent as ready text
over a warm connection: the {BARE} from `VALUES`, as one writes it by hand, and the
{FLOOR}, the fastest statement known (one `jsonb` expanded by `jsonb_each`, in no order
that is safe beside others). In brackets the 99th percentile. The client calls again
within 2 ms, as tools do: one that pauses longer waits 0.1 to 0.2 ms more.

{table(names, rows)}"""


def budget(results: Results) -> str:
    """Return where the time goes."""
    whole = sum(results.budget.values())
    rows = [
        (step, f"{time:.2f}", f"{time / whole:.0%}")
        for step, time in results.budget.items()
    ]
    rows.append(("**the whole request**", f"{whole:.2f}", "100%"))
    return f"""## The budget

A request for {results.batches[-1]:,} devices of {results.fleets[-1]:,}, step by step,
in milliseconds. The last step is what remains of the whole.

{table(("step", "ms", "share"), rows)}"""


def peers(results: Results) -> str:
    """Return the service beside its peers."""
    found = results.comparison
    one, most = found.latency
    rows = []
    titles = sorted(found.disjoint, key=lambda t: found.latency[most][t].median)
    for title in titles:
        single = found.latency[one].get(title)
        sample = found.latency[most][title]
        rows.append(
            (
                title,
                f"{single.median:.2f} ({single.p99:.1f})" if single else "",
                f"{sample.median:.1f} ({sample.p99:.0f})",
                f"{found.disjoint[title].devices_per_second:,.0f}",
                f"{found.overlapping[title].devices_per_second:,.0f}",
                f"{found.errors(title):,}",
            )
        )
    names = (
        "",
        f"{one:,} device",
        f"{most:,} devices",
        "devices/s, disjoint",
        "devices/s, overlapping",
        "errors",
    )
    return f"""## Peers

Other ways to build the same endpoint (`benchmarks/peers/`), on the same tables, with as
many workers and connections, and with the planner as PostgreSQL delivers it, its
statistics up to date: what one client waits for, and what {CLIENTS} clients get done
with calls of {most:,} devices, each on devices of its own, or all on the same
{SHARED:,}. In brackets the slowest call. A fleet of {found.fleet:,}. \
Not to be had here: {", ".join(found.missing) or "none"}.

{table(names, rows)}"""


def memory(results: Results) -> str:
    """Return what a worker needs."""
    found = results.memory
    rows = [
        ("at rest", f"{found.at_rest:.1f}"),
        (f"after {found.requests:,} mixed requests", f"{found.after_requests:.1f}"),
        (
            f"at most, during {found.large_body:.1f} MiB for 1,000 devices",
            f"{found.peak:.1f}",
        ),
    ]
    return f"## Memory\n\n{table(('a worker', 'MiB'), rows)}"


def storage(results: Results) -> str:
    """Return what rewriting does to the table."""
    found = results.storage
    rows = [
        ("heap-only updates", f"{found.hot_share:.2%}"),
        ("table before", f"{found.table_before / MB:.1f} MiB"),
        ("table after", f"{found.table_after / MB:.1f} MiB"),
        ("indexes before", f"{found.indexes_before / MB:.1f} MiB"),
        ("indexes after", f"{found.indexes_after / MB:.1f} MiB"),
        ("WAL for a device", f"{found.wal_per_device:.0f} bytes"),
        ("autovacuums meanwhile", f"{found.autovacuums}"),
    ]
    return f"""## Storage

All metadata of {found.devices:,} devices, as new, replaced {found.rewrites} times in
order, over HTTP, with nobody vacuuming by hand, and no checkpoint meanwhile: after one
each page is written to the WAL whole, once. What the settings of PostgreSQL do to it is
in [docs/postgres.md](../docs/postgres.md).

{table(("the devices table", ""), rows)}"""


def table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table: words to the left, figures to the right."""
    names = list(names)
    aligned = [":---", *["---:"] * (len(names) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (names, aligned, *rows))
