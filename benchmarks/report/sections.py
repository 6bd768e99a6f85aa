"""The sections of the report, in Markdown."""

import textwrap
from collections.abc import Iterable

from benchmarks.baseline import BASELINE, LOWER_BOUND, SERVICE
from benchmarks.load.generator import CONNECTIONS
from benchmarks.load.workloads import SHARED
from benchmarks.report import results as result
from benchmarks.report.results import THIS, Results
from benchmarks.servers import COORDINATOR, PLAIN, WITH, WITHOUT, WORKERS


def goals(results: Results) -> str:
    """Return the goals, and whether each was reached."""
    rows = [
        (goal.text, goal.measured, "yes" if goal.reached else "**no**")
        for goal in result.goals(results)
    ]
    return f"## Goals\n\n{table(('goal', 'measured', 'reached'), rows)}"


def baseline(results: Results) -> str:
    """Return the comparison of the service with the baseline."""
    rows = []
    for (fleet, batch), samples in sorted(results.baseline.items()):
        base, bound, service = (
            samples[name] for name in (BASELINE, LOWER_BOUND, SERVICE)
        )
        rows.append(
            (
                f"{fleet:,}",
                f"{batch:,}",
                f"{base.median:.2f} ({base.p99:.1f})",
                f"{bound.median:.2f} ({bound.p99:.1f})",
                f"{service.median:.2f} ({service.p99:.1f})",
                f"{service.median / base.median:.2f} x",
                f"{service.median / bound.median:.2f} x",
                f"{service.median - base.median:+.2f}",
            )
        )
    names = (
        *("fleet", "devices", BASELINE, LOWER_BOUND, SERVICE),
        *("service / baseline", "service / bound", "difference"),
    )
    text = f"""
The latency of one request from one client, compared with statements that update the
same devices without HTTP. psycopg2 sends them as complete SQL text over an open
connection.
The {BASELINE} is `UPDATE ... FROM (VALUES ...)`. The {LOWER_BOUND} is the fastest known
statement: it expands one `jsonb` with `jsonb_each`, in an order that can deadlock with
other statements. Times are medians in milliseconds, with the 99th percentile in
parentheses. The client sends its next request within 2 ms; after a longer pause a
request takes 0.1 to 0.2 ms more.
"""
    return section("Baseline", text, table(names, rows))


def load(results: Results) -> str:
    """Return the comparison of the service with the alternatives."""
    rows = []
    for workload, loads in results.load.items():
        for title in sorted(loads, key=lambda each: -loads[each].rate):
            found = loads[title]
            rows.append(
                (
                    str(workload),
                    f"**{title}**" if title == THIS else title,
                    f"{found.rate:,.0f}",
                    f"{found.application_ms:.2f}",
                    f"{found.p50:,.1f}",
                    f"{found.p99:,.1f}",
                    f"{found.errors:,}",
                    f"{found.generator_ms:.2f}",
                )
            )
    names = (
        *("request", "implementation", "requests/s", "CPU, ms", "p50, ms", "p99, ms"),
        *("errors", "generator CPU, ms"),
    )
    text = f"""
{CONNECTIONS} keep-alive connections send requests to the service and to alternative
implementations of the endpoint (`benchmarks/alternatives/`). All use the same tables
and the same number of workers and database connections. The alternatives run with the
default planner settings and up-to-date statistics. The fleet has
{results.fleets[-1]:,} devices. Overlapping requests share {SHARED:,} devices, other
requests have no device in common. The CPU time is the time of the application per
request, without PostgreSQL.
The empty Flask view reads the body under the gunicorn settings of the service, without
a database: it is the lower bound for any endpoint in Flask.
"""
    return section("Load", text, table(names, rows, left=2))


def breakdown(results: Results) -> str:
    """Return the breakdown of a request."""
    if not results.breakdown:
        return "## Breakdown\n\nNot measured: py-spy could not attach to the worker.\n"
    totals = {batch: sum(steps.values()) for batch, steps in results.breakdown.items()}
    steps = next(iter(results.breakdown.values()))
    rows = [
        (
            step,
            *(
                f"{each[step]:.2f} ({each[step] / totals[batch]:.0%})"
                for batch, each in results.breakdown.items()
            ),
        )
        for step in steps
    ]
    rows.append(("**total**", *(f"{total:.2f}" for total in totals.values())))
    names = ("step", *(f"{batch:,} device{'s' * (batch > 1)}, ms" for batch in totals))
    text = f"""
The duration of each step of a request, from one client, to a fleet of
{results.fleets[-1]:,} devices. The sampling profiler py-spy observes the worker from
outside; waits for PostgreSQL count as part of their step. The profiler also
uses CPU time, so the totals are higher than the latencies above.
"""
    return section("Breakdown", text, table(names, rows))


def history(results: Results) -> str:
    """Return the cost of the history."""
    rows = []
    for batch, samples in results.history.items():
        without, with_history = samples[WITHOUT], samples[WITH]
        rows.append(
            (
                f"{batch:,}",
                f"{without.median:.2f} ({without.p99:.1f})",
                f"{with_history.median:.2f} ({with_history.p99:.1f})",
                f"{with_history.median / without.median:.2f} x",
                f"{with_history.median - without.median:+.2f}",
            )
        )
    text = f"""
The latency of one request from one client, without the history and with it, on two
servers with {results.fleets[0]:,} devices each. Times are medians in milliseconds, with
the 99th percentile in parentheses.
"""
    names = ("devices", WITHOUT, WITH, "ratio", "difference")
    return section("History", text, table(names, rows))


def citus(results: Results) -> str:
    """Return the comparison of a Citus cluster with plain PostgreSQL."""
    if not results.citus:
        return "## Citus\n\nNot measured: Citus is not installed.\n"
    rows = []
    for batch, found in results.citus.items():
        plain, coordinator = found.latency[PLAIN], found.latency[COORDINATOR]
        cpu = found.cpu
        # Few requests may use less than the 10 ms that the system can measure.
        base = max(cpu[PLAIN], 0.01)
        rows.append(
            (
                f"{batch:,}",
                f"{plain.median:.2f} ({plain.p99:.1f})",
                f"{coordinator.median:.2f} ({coordinator.p99:.1f})",
                f"{coordinator.median / plain.median:.2f} x",
                f"{cpu[PLAIN]:.2f}",
                *(
                    f"{cpu[name]:.2f} ({cpu[name] / base:.2f} x)"
                    for name in (COORDINATOR, WORKERS)
                ),
            )
        )
    text = f"""
The latency of one request from one client, with {PLAIN} and with the {COORDINATOR} of a
Citus cluster with two {WORKERS}, all of the same version, on this machine. The fleet
has {results.fleets[0]:,} devices. Times are medians in milliseconds, with the 99th
percentile in parentheses. CPU time is that of the servers in milliseconds per request,
compared with {PLAIN} in parentheses.
"""
    names = (
        *("devices", PLAIN, COORDINATOR, "ratio"),
        *(f"CPU, {name}" for name in (PLAIN, COORDINATOR, WORKERS)),
    )
    return section("Citus", text, table(names, rows))


def memory(results: Results) -> str:
    """Return the memory of a worker."""
    found = results.memory
    rows = [
        ("idle", f"{found.idle:.1f}"),
        (f"after {found.requests:,} mixed requests", f"{found.after_requests:.1f}"),
        (
            f"peak during a request of {found.large_body:.1f} MiB for 1,000 devices",
            f"{found.peak:.1f}",
        ),
    ]
    text = """
The resident memory of a worker. At the peak, the worker holds the body, the statement,
and two copies of the statement in libpq, which sends one of them and keeps the other
for errors.
"""
    return section("Memory", text, table(("worker", "MiB"), rows))


def section(title: str, text: str, table: str) -> str:
    """Return a section with a paragraph and a table."""
    return f"## {title}\n\n{wrap(text)}\n\n{table}"


def wrap(text: str) -> str:
    """Return ``text`` as one wrapped paragraph."""
    return textwrap.fill(text.strip(), 88, break_on_hyphens=False)


def table(names: Iterable[str], rows: Iterable[Iterable[str]], *, left: int = 1) -> str:
    """Return a table with ``left`` left-aligned columns, the others right-aligned."""
    names = list(names)
    aligned = [*[":---"] * left, *["---:"] * (len(names) - left)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (names, aligned, *rows))
