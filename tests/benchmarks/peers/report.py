"""The benchmark against peers as a page."""

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from tests.benchmarks.bench import Result

OURS = "tokentide"
COST_GOALS = {
    "ClickHouse Kafka engine": 1.0,
    "confluent-kafka by hand": 1.0,
    "kafka-python by hand": 1.0,
    "Bytewax": 0.7,
    "Quix Streams": 0.4,
    "stock Faust": 0.1,
}
"""CPU of tokentide at most so many times that of the other."""
SPEED_GOAL = ("ClickHouse Kafka engine", 1.7)


def write(results: Sequence[Result], *, runs: int, event_bytes: float) -> str:
    """Return the report, Markdown."""
    stacks = list(dict.fromkeys(each.stack for each in results))
    lines = [
        "# The same work by what others would use",
        "",
        f"Written by `make benchpeers`, {runs} rounds; do not edit. {_machine()}",
        "",
        f"One topic of 4 partitions, {max(each.events for each in results):,} events of"
        f" {event_bytes:,.0f} bytes. Every stack reads it into tables of its own, one after the other, round by"
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
    return "\n".join([*lines, ""])


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


def _machine() -> str:
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, everything on it;"
        f" Python {platform.python_version()}, chDB {version('chdb')}. Machines are shared: read ratios."
    )
