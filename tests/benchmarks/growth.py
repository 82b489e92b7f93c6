"""``make bench-growth``: does an event cost the same when something grows.

Each value of each factor has a broker, an engine and a topic of its own; all else is as in the base.
Rounds go through all of them, so that a noisy neighbour hits all alike, and a ratio is taken within a
round. Every run is recounted. Writes GROWTH.md.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bench import Expected, Result, drain, fill, recount
from tests.benchmarks.parts import Machine, end_offsets, machine, tokentide
from tests.benchmarks.peers.report import machine_text

STACK = "growth"
MONTH_DAYS = 30
HISTORY_EVENTS = 500_000
NOTHING = Expected(0, 0, 0.0)


@dataclass(frozen=True, eq=False)
class Case:
    """One value of one factor.

    Attributes:
        settings: Of tokentide, by name.
        simulate: Options of ``tokentide simulate``.
        history_months: So many months of `HISTORY_EVENTS` each have been stored before.
    """

    factor: str
    value: str
    settings: Mapping[str, object] = field(default_factory=dict)
    simulate: tuple[str, ...] = ()
    workers: int = 1
    history_months: int = 0


BASE = Case(
    "base", "4 partitions, 1 worker, ranges as large as it makes them, no history, no faults"
)
_LARGE = {"batch_bytes_max": 1 << 30, "held_bytes_max": 4 << 30, "fetch_bytes_max": 16 << 20}
CASES = (
    BASE,
    *(Case("partitions", str(n), {"usage_partitions": n}) for n in (1, 2, 12)),
    *(Case("workers", str(n), workers=n) for n in (2, 4)),
    *(
        Case("rows in a batch", f"{n:,}", {"batch_rows_max": n, **(_LARGE if n > 50_000 else {})})
        for n in (1_000, 5_000, 20_000, 50_000, 500_000)
    ),
    Case("models", "all of the catalogue, under two names", simulate=("--world", "catalogue")),
    *(Case("months of history", str(n), history_months=n) for n in (1, 13)),
    *(
        Case("bad records", f"{part:.0%}", simulate=("--faults", f"malformed={part}"))
        for part in (0.01, 0.05, 0.2)
    ),
    *(
        Case("sent again", f"{part:.0%}", simulate=("--faults", f"duplicates={part}"))
        for part in (0.1, 0.5)
    ),
)
GOALS = {("bad records", "20%"): 1.5, ("sent again", "50%"): 1.5}
"""CPU per event read, at most so many times that of the base."""
BENDS_FROM = 1.15
WHY = {
    "partitions": "Partitions share what a worker may hold, so ranges are smaller where there are many, and each"
    " has a last one; an insert has a price of its own.",
    "workers": "Each has a start of its own, and rebuilds the windows of what it is given.",
    "rows in a batch": "An insert has a price of its own: the plans of eight views and nine parts; and the more"
    " parts there are, the more of them are merged within the run.",
    "models": "A block has more rows in each rollup, and more distinct texts in each of its columns.",
    "months of history": "Parts that are merged meanwhile, and a larger directory of them.",
    "bad records": "The strict decoder judges each line that is refused, one by one, and the dead-letter topic"
    " gets it in a transaction.",
    "sent again": "An id that is not in memory is asked of ClickHouse, and `usage_duplicates` gets the row.",
}
"""What makes an event dearer, by factor."""


def main() -> None:
    """Run all rounds and write the page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=1_500_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", action="append", help="a factor; may be given several times")
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "GROWTH.md")
    chosen = options.parse_args()
    console = Console()
    cases = [
        each for each in CASES if each is BASE or not chosen.only or each.factor in chosen.only
    ]
    rounds: list[dict[Case, Result]] = []
    # One directory, deleted at the end: see `parts.put_away`.
    with tempfile.TemporaryDirectory(prefix="tokentide-bench-") as directory:
        # Not counted: the first run of a revision compiles, and fills the cache of files.
        measure(BASE, chosen.events, Path(directory, "first"))
        for number in range(chosen.rounds):
            rounds.append({})
            for at, case in enumerate(cases):
                result = measure(case, chosen.events, Path(directory, f"{number}-{at}"))
                rounds[-1][case] = result
                console.print(
                    f"{number + 1}: {case.factor} {case.value}: {result.cpu_us:.1f} us of CPU per event,"
                    f" {result.events_per_second:,.0f} events/s"
                )
            chosen.out.write_text(page(rounds, chosen.events))
            console.print(f"\nround {number + 1} written to {chosen.out}\n")


def measure(case: Case, events: int, directory: Path) -> Result:
    """Return what a case costs, recounted; its broker and engine live in a new directory."""
    directory.mkdir()
    with machine(directory) as parts:
        past, past_records = NOTHING, 0
        if case.history_months:
            past, past_records = store_history(parts, case)
        expected = fill(parts, events, *case.simulate, **case.settings)
        records = sum(end_offsets(parts.kafka).values()) - past_records
        result, database = drain(
            parts,
            STACK,
            1,
            tokentide("worker"),
            records,
            workers=case.workers,
            settings=case.settings,
        )
        total = replace(
            expected, rows=expected.rows + past.rows, tokens=expected.tokens + past.tokens
        )
        recount(parts, database, total)
        return result


def store_history(parts: Machine, case: Case) -> tuple[Expected, int]:
    """Store events of the months before, by the same way; return what they are, and their records."""
    now = datetime.now(UTC)
    begin = now - timedelta(days=MONTH_DAYS * case.history_months)
    end = now - timedelta(days=1)
    # Of another seed: events with the ids of those that are measured would be sent again.
    past = fill(
        parts,
        HISTORY_EVENTS * case.history_months,
        *("--seed", "2", "--from", begin.isoformat(), "--to", end.isoformat()),
        **case.settings,
    )
    records = sum(end_offsets(parts.kafka).values())
    drain(parts, STACK, 1, tokentide("worker"), records, settings=case.settings)
    return past, records


def page(rounds: Sequence[Mapping[Case, Result]], events: int) -> str:
    """Return the report, Markdown."""
    many = "1 round" if len(rounds) == 1 else f"{len(rounds)} rounds"
    lines = [
        "# Does an event cost the same when something grows",
        "",
        f"Written by `make bench-growth`, {many} of {events:,} events; do not edit. {machine_text()}",
        "",
        f"Base: {BASE.value}. CPU is that of workers, engine and broker together, per record read; medians over"
        " rounds. *Times the base*: median of the ratio within a round, with the lowest and highest.",
        "",
        "| factor | value | events/s | CPU us/event | workers | engine | broker | peak MiB of workers | times the base | goal |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for case in rounds[0]:
        own = [each[case] for each in rounds]
        ratios = [each[case].cpu_us / each[BASE].cpu_us for each in rounds]
        middle = statistics.median(ratios)
        goal = GOALS.get((case.factor, case.value))
        reached = "" if goal is None else f"at most {goal}: {'yes' if middle <= goal else '**no**'}"
        cells = (
            case.factor,
            case.value if case is not BASE else "",
            f"{statistics.median([each.events_per_second for each in own]):,.0f}",
            *(
                f"{statistics.median([getattr(each, name) for each in own]):.1f}"
                for name in ("cpu_us", "worker_cpu_us", "engine_cpu_us", "broker_cpu_us")
            ),
            f"{max(each.worker_peak_mib for each in own):,.0f}",
            f"{middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            reached,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_bends(rounds), ""])


def _bends(rounds: Sequence[Mapping[Case, Result]]) -> list[str]:
    """Say where the cost grows, and why."""
    found: dict[str, list[str]] = {}
    for case in rounds[0]:
        ratio = statistics.median([each[case].cpu_us / each[BASE].cpu_us for each in rounds])
        if ratio >= BENDS_FROM:
            found.setdefault(case.factor, []).append(f"{case.value} ({ratio:.2f})")
    if not found:
        return [f"Nowhere does an event cost {BENDS_FROM} times the base or more."]
    title = f"Where an event costs {BENDS_FROM} times the base or more, and why:"
    return [
        title,
        "",
        *(f"* {factor}: {', '.join(at)}. {WHY[factor]}" for factor, at in found.items()),
    ]


if __name__ == "__main__":
    main()
