"""The benchmark against peers as a page."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from tests.benchmarks.bench import Result
from tests.benchmarks.drawing import stacked_bars
from tests.benchmarks.freshness import FRESH_SECONDS, RATE_MAX, RATE_STEP, Freshness

OURS = "tokentide"
STOCK = "stock Faust"
CHART = "peers/cost.svg"
CATCH_UP_RATE = 20_000
COST_GOALS = {
    "ClickHouse Kafka engine": 1.0,
    "confluent-kafka by hand": 1.0,
    "kafka-python by hand": 1.0,
    "Bytewax": 0.7,
    "Quix Streams": 0.4,
    STOCK: 0.1,
}
"""CPU of tokentide at most so many times that of the other."""
FRESHNESS_GOALS = {20_000: (1.0, 2.0), 60_000: (3.0, 3.0)}
"""By events/s: seconds that p50 and p99 of tokentide stay below."""
SPEED_GOAL = ("ClickHouse Kafka engine", 1.7)


@dataclass(frozen=True)
class Measured:
    """All runs over the topic.

    Attributes:
        event_bytes: Mean size of an event as JSON.
        disk_bytes: On disk after merges, per event, by table of tokentide.
    """

    results: Sequence[Result]
    event_bytes: float
    disk_bytes: Mapping[str, float]


def write(
    measured: Measured,
    fresh: Mapping[str, Sequence[Freshness]],
    highest: Mapping[str, int | None],
    catch_up_seconds: float,
    *,
    runs: int,
) -> str:
    """Return the report, Markdown."""
    results = measured.results
    stacks = list(dict.fromkeys(each.stack for each in results))
    lines = [
        "# The same work by what others would use",
        "",
        f"Written by `make bench-peers`, {runs} rounds; do not edit. {machine_text()}",
        "",
        f"One topic of 4 partitions, {max(each.events for each in results):,} events of"
        f" {measured.event_bytes:,.0f} bytes. Every stack reads it into tables of its own, one after the other, round by"
        " round. A result counts only if its rows have the same hash as tokentide's, over all columns that say"
        " something of the request and its model, and the same sums in every rollup. CPU is that of worker,"
        " engine and broker together. tokentide has every guarantee on, panes and windows too; the others"
        " read, enrich and write, at least once (Bytewax: without recovery). Stock Faust reads"
        " the beginning of the topic only, and is not recounted.",
        "",
        "| stack | events/s | CPU us/event | worker | engine | broker | peak MiB of the worker |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for stack in stacks:
        own = [each for each in results if each.stack == stack]
        cells = (
            stack,
            _spread([each.events_per_second for each in own], 0),
            _spread([each.cpu_us for each in own], 1),
            *(_median(own, name) for name in ("worker_cpu_us", "engine_cpu_us", "broker_cpu_us")),
            f"{max(each.worker_peak_mib for each in own):,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## tokentide against each",
        "",
        "Medians over rounds of the ratio within a round, with the lowest and highest.",
        "",
        "| against | times the events/s | times the CPU | goal | reached |",
        "|---|---:|---:|---|---|",
    ]
    lines += [_against(results, stack) for stack in stacks if stack != OURS]
    lines += ["", f"![CPU per event by stack and process]({CHART})"]
    if any(fresh.values()):
        lines += [*_freshness(fresh), *_highest(highest)]
    lines += _other_goals(measured, catch_up_seconds)
    return "\n".join([*lines, ""])


def chart(results: Sequence[Result]) -> str:
    """Return the cost of every stack but stock Faust, whose bar would leave the others no room."""
    parts = ("worker_cpu_us", "engine_cpu_us", "broker_cpu_us")
    bars = {
        stack: [
            statistics.median([getattr(each, part) for each in results if each.stack == stack])
            for part in parts
        ]
        for stack in dict.fromkeys(each.stack for each in results)
        if stack != STOCK
    }
    title = "CPU per event, everything on: fetched, decoded, enriched, stored, rolled up"
    return stacked_bars(title, "microseconds, median", ("worker", "engine", "broker"), bars)


def _other_goals(measured: Measured, catch_up_seconds: float) -> list[str]:
    ours = [each for each in measured.results if each.stack == OURS]
    speed = statistics.median([each.events_per_second for each in ours])
    fetch_us = statistics.median([each.stages_cpu_us["fetch"] for each in ours])
    peak_mib = max(each.worker_peak_mib for each in ours)
    events_bytes = measured.disk_bytes["usage_events"]
    all_bytes = sum(measured.disk_bytes.values())
    rows = [
        ("events/s, 4 partitions, two cores", f"{speed:,.0f}", "200,000", speed >= 200_000),
        (
            "transport alone (fetch, decompress, check, split), CPU us per record",
            f"{fetch_us:.2f}",
            "at most 1.0",
            fetch_us <= 1,
        ),
        ("peak memory of the worker, MiB", f"{peak_mib:,.0f}", "under 1,024", peak_mib < 1024),
        (
            f"disk per event after merges, bytes ({all_bytes:.1f} with all rollups)",
            f"{events_bytes:.1f}",
            "at most 50",
            events_bytes <= 50,
        ),
        (
            f"kill -9 at {CATCH_UP_RATE:,} events/s to caught up, seconds",
            f"{catch_up_seconds:.1f}",
            "under 15",
            catch_up_seconds < 15,
        ),
    ]
    return [
        "",
        "## Other goals of tokentide",
        "",
        "| what | measured | goal | reached |",
        "|---|---:|---|---|",
        *(
            f"| {what} | {value} | {goal} | {'yes' if is_reached else '**no**'} |"
            for what, value, goal, is_reached in rows
        ),
    ]


def _freshness(fresh: Mapping[str, Sequence[Freshness]]) -> list[str]:
    lines = [
        "",
        "## Freshness",
        "",
        "Seconds from the moment an event was made to the first query that counted it, at steady rates, made by"
        " the simulator on the same cores.",
        "",
        "| events/s | stack | p50 | p95 | p99 | goal | reached |",
        "|---:|---|---:|---:|---:|---|---|",
    ]
    for at_rate in zip(*fresh.values(), strict=True):
        for stack, each in zip(fresh, at_rate, strict=True):
            goal = FRESHNESS_GOALS.get(each.rate) if stack == OURS else None
            wanted = f"p50 {goal[0]}, p99 {goal[1]}" if goal else ""
            is_reached = goal and each.p50_seconds < goal[0] and each.p99_seconds < goal[1]
            reached = "" if goal is None else "yes" if is_reached else "**no**"
            seconds = (each.p50_seconds, each.p95_seconds, each.p99_seconds)
            cells = (f"{each.rate:,}", stack, *(f"{one:.2f}" for one in seconds), wanted, reached)
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _highest(highest: Mapping[str, int | None]) -> list[str]:
    texts = {
        stack: "none" if rate is None else f"{rate:,}" if rate < RATE_MAX else f"{rate:,} or more"
        for stack, rate in highest.items()
    }
    return [
        "",
        f"Highest rate at which p99 stays below {FRESH_SECONDS:.0f} s, within {RATE_STEP:,} events/s,"
        " the simulator on the same cores: "
        + "; ".join(f"{stack} {text}" for stack, text in texts.items())
        + ".",
    ]


def _against(results: Sequence[Result], stack: str) -> str:
    ours = [each for each in results if each.stack == OURS]
    others = [each for each in results if each.stack == stack]
    pairs = list(zip(ours, others, strict=True))
    speed = [a.events_per_second / b.events_per_second for a, b in pairs]
    cost = [a.cpu_us / b.cpu_us for a, b in pairs]
    goals = [(f"CPU at most {COST_GOALS[stack]}", statistics.median(cost) <= COST_GOALS[stack])]
    if stack == SPEED_GOAL[0]:
        is_reached = statistics.median(speed) >= SPEED_GOAL[1]
        goals.append((f"events/s at least {SPEED_GOAL[1]}", is_reached))
    wanted = "; ".join(text for text, _ in goals)
    reached = "; ".join("yes" if is_reached else "**no**" for _, is_reached in goals)
    return f"| {stack} | {_spread(speed, 2)} | {_spread(cost, 2)} | {wanted} | {reached} |"


def _median(results: Sequence[Result], name: str) -> str:
    return f"{statistics.median([getattr(each, name) for each in results]):.1f}"


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def machine_text() -> str:
    """Return what the figures were measured on."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, everything on it;"
        f" Python {platform.python_version()}, chDB {version('chdb')}. Machines are shared: read ratios."
    )
