"""``make bench``: what an event costs, and how fresh it is.

Everything is real: the broker, the engine behind its HTTP interface, the worker as users start it.
The named alternative, stock Faust one event at a time, does the same work on the same topic into
the same tables in the same run. Each result is printed only if its recount is right: rows, tokens
and offsets in ClickHouse equal those that were produced.

Read ratios, not absolute figures: machines differ and are shared.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson
from rich.console import Console
from rich.table import Table

from deploy.local.processes import LOOPBACK, Child, free_port, stop_all
from streams.stages import STAGES
from tests.benchmarks import freshness
from tests.benchmarks.parts import (
    STOP_SECONDS_MAX,
    Machine,
    client,
    cpu_seconds,
    end_offsets,
    http_text,
    machine,
    main_pid,
    metrics,
    put_away,
    resident_bytes,
    run,
    wait_for,
)

POLL_SECONDS = 0.2
"""Between two looks at /metrics, which costs the worker some milliseconds each."""
DRAIN_SECONDS_MAX = 600.0
MIB = 1 << 20
EVENT_TIME_RATE = 20_000


@dataclass(frozen=True)
class Result:
    """One run of one stack over the topic; times per event in microseconds."""

    stack: str
    events: int
    seconds: float
    worker_cpu_us: float
    engine_cpu_us: float
    broker_cpu_us: float
    worker_peak_mib: float
    stages_cpu_us: dict[str, float]

    @property
    def events_per_second(self) -> float:
        """Events from the first read to the last committed, a second."""
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU time of all three processes for an event."""
        return self.worker_cpu_us + self.engine_cpu_us + self.broker_cpu_us


@dataclass(frozen=True)
class Expected:
    """What must be in ClickHouse after a run.

    Attributes:
        event_bytes: Mean size of an event as JSON.
    """

    rows: int
    tokens: int
    event_bytes: float


def fill(parts: Machine, events: int, *options: str, **settings: object) -> Expected:
    """Make the topics and fill the one of events; return what a stack must make of it.

    Events happen up to now, as many a second as OpenRouter has at twice its average: all are in
    panes.

    Args:
        options: More of ``tokentide simulate``.
    """
    run(parts, "topics", **settings)
    run(parts, "catalogue", "publish", **settings)
    start = datetime.now(UTC) - timedelta(seconds=events / EVENT_TIME_RATE)
    times = ("--from", start.isoformat())
    told = run(parts, "simulate", "--events", str(events), *times, *options, **settings)
    truth = orjson.loads(told.strip().splitlines()[-1])
    distinct = truth["distinct"]
    tokens = distinct["tokens_prompt"] + distinct["tokens_completion"]
    return Expected(distinct["records"], tokens, truth["bytes"] / truth["records"])


def recount(parts: Machine, database: str, expected: Expected) -> None:
    """Stop the benchmark if ClickHouse does not hold exactly what was produced, once."""
    found = client(parts.clickhouse_port, database).query(
        "SELECT count(), sum(coalesce(tokens_prompt, 0) + coalesce(tokens_completion, 0)),"
        " uniqExact(kafka_partition, kafka_offset), (SELECT sum(requests) FROM usage_1m),"
        " (SELECT sum(requests) FROM usage_1d), (SELECT sum(requests) FROM usage_context_1h)"
        " FROM usage_events"
    )
    wanted = (expected.rows, expected.tokens, *[expected.rows] * 4)
    if found.result_rows[0] != wanted:
        raise SystemExit(f"recount of {database}: {found.result_rows[0]}, expected {wanted}")


def drain(
    parts: Machine,
    stack: str,
    number: int,
    command: Sequence[str],
    events: int,
    *,
    path: Path | None = None,
    workers: int = 1,
    settings: Mapping[str, object] | None = None,
) -> tuple[Result, str]:
    """Run a stack over the whole topic in a fresh group and database, its name the second value.

    Args:
        path: Where it finds packages of other versions than the project's.
        workers: So many of its processes share the work; figures are of all of them.
        settings: Of tokentide, by name.
    """
    name = database_of(stack, number)
    own = {"clickhouse_database": name, "consumer_group": name, **(settings or {})}
    run(parts, "migrate", **own)
    running: list[Child] = []
    urls: list[str] = []
    try:
        for index in range(workers):
            port = free_port()
            environment = parts.environment(**own, worker_port=port)
            if path is not None:
                environment["PYTHONPATH"] = f"{path}:{environment['PYTHONPATH']}"
            log = parts.directory / f"{name}-{index}.out"
            running.append(Child(stack, command, log, environment))
            urls.append(f"http://{LOOPBACK}:{port}/metrics")
            running[-1].start()
        for worker, url in zip(running, urls, strict=True):
            wait_for(lambda url=url: http_text(url) is not None, worker)  # type: ignore[misc]
        result = _watch(parts, stack, events, running, urls)
    finally:
        stop_all(running, STOP_SECONDS_MAX)
    return result, name


def database_of(stack: str, number: int) -> str:
    """Return the database of a run, which is its consumer group too."""
    return f"{stack.replace('-', '_')}_{number}"


def _watch(
    parts: Machine, stack: str, events: int, running: Sequence[Child], urls: Sequence[str]
) -> Result:
    """Return what the workers cost from the first record read to the last one committed."""
    workers = [main_pid(each) for each in running]
    pids = (parts.clickhouse_pid, parts.kafka_pid)

    def told(name: str) -> float:
        # Only that one: the whole page costs a worker 10 ms each time.
        only = urlencode({"name[]": name.partition("{")[0]})
        return sum(metrics(f"{url}?{only}").get(name, 0) for url in urls)

    def cpu() -> tuple[float, ...]:
        return sum(map(cpu_seconds, workers)), *map(cpu_seconds, pids)

    wait_for(lambda: told("tokentide_records_read_total") > 0, running[0])
    started, before = time.monotonic(), cpu()
    peak = 0
    deadline = started + DRAIN_SECONDS_MAX
    while told("tokentide_records_committed_total") < events:
        peak = max(peak, sum(map(resident_bytes, workers)))
        ended = [each for each in running if each.exit_code is not None]
        if ended or time.monotonic() > deadline:
            raise SystemExit(f"{stack} did not finish: see {(ended or running)[0].log}")
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    worker_us, engine_us, broker_us = (
        (b - a) * 1e6 / events for a, b in zip(before, cpu(), strict=True)
    )
    stages = {
        stage: told(f'tokentide_stage_cpu_seconds_total{{stage="{stage}"}}') * 1e6 / events
        for stage in STAGES
    }
    return Result(stack, events, seconds, worker_us, engine_us, broker_us, peak / MIB, stages)


def spread(values: Sequence[float]) -> str:
    """Return the median with the lowest and the highest value."""
    return f"{statistics.median(values):,.1f} ({min(values):,.1f} to {max(values):,.1f})"


def table(results: Sequence[Result]) -> Table:
    """Return one row per stack: medians with their spread."""
    shown = Table(title="end to end, all rows recounted", box=None, padding=(0, 2, 0, 0))
    for column in ("stack", "events/s", "CPU us/event", "worker", "engine", "broker", "peak MiB"):
        shown.add_column(column, justify="left" if column == "stack" else "right")
    for stack in dict.fromkeys(each.stack for each in results):
        own = [each for each in results if each.stack == stack]
        shown.add_row(
            stack,
            spread([each.events_per_second for each in own]),
            spread([each.cpu_us for each in own]),
            *(
                f"{statistics.median([getattr(each, name) for each in own]):.2f}"
                for name in ("worker_cpu_us", "engine_cpu_us", "broker_cpu_us")
            ),
            f"{max(each.worker_peak_mib for each in own):,.0f}",
        )
    return shown


def main() -> None:
    """Run the benchmark and write ``bench.json``."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=1_500_000)
    options.add_argument("--runs", type=int, default=3)
    options.add_argument("--stock-events", type=int, default=100_000)
    options.add_argument("--freshness-rate", type=int, default=2_000)
    options.add_argument("--freshness-seconds", type=int, default=30)
    options.add_argument("--out", type=Path, default=Path("bench.json"))
    chosen = options.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-bench-") as directory,
        machine(Path(directory)) as parts,
    ):
        report = measure(parts, chosen, console)
    chosen.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    console.print(f"\nwritten to {chosen.out}")


def measure(parts: Machine, chosen: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Fill the topic, run every stack over it, then measure freshness."""
    console.print(f"filling the topic with {chosen.events:,} events")
    expected = fill(parts, chosen.events)
    events = sum(end_offsets(parts.kafka).values())
    results: list[Result] = []
    for number in range(chosen.runs):
        command = [sys.executable, "-m", "deploy.cli.main", "worker"]
        result, database = drain(parts, "tokentide", number, command, events)
        recount(parts, database, expected)
        put_away(parts.clickhouse_port, database)
        results.append(result)
        console.print(f"tokentide run {number + 1}: {result.events_per_second:,.0f} events/s")
        stock = [sys.executable, "-m", "tests.benchmarks.stock_faust"]
        result, database = drain(parts, "stock-faust", number, stock, chosen.stock_events)
        put_away(parts.clickhouse_port, database)
        results.append(result)
        console.print(f"stock Faust run {number + 1}: {result.events_per_second:,.0f} events/s")
    console.print(table(results))
    ours = [each for each in results if each.stack == "tokentide"]
    stages = {
        stage: statistics.median([each.stages_cpu_us[stage] for each in ours]) for stage in STAGES
    }
    console.print(
        "worker CPU by stage, us/event: "
        + ", ".join(f"{name} {value:.2f}" for name, value in stages.items())
    )
    medians = {
        stack: statistics.median([r.events_per_second for r in results if r.stack == stack])
        for stack in ("tokentide", "stock-faust")
    }
    ratio = medians["tokentide"] / medians["stock-faust"]
    console.print(f"tokentide / stock Faust: {ratio:.1f} times the events/s")
    fresh = freshness.measure(parts, chosen.freshness_rate, chosen.freshness_seconds)
    console.print(
        f"freshness at {fresh.rate:,} events/s, produced to queryable:"
        f" p50 {fresh.p50_seconds:.2f} s, p99 {fresh.p99_seconds:.2f} s ({fresh.events:,} events)"
    )
    windows = fresh.windows
    if windows is None:
        raise SystemExit("freshness: no window closed: measure for longer than 20 seconds")
    console.print(
        "closed one-minute windows, readable after their end and the allowed lateness:"
        f" p50 {windows.p50_seconds:.2f} s, at most {windows.max_seconds:.2f} s"
        f" ({windows.count} windows); CPU us/event: panes {windows.panes_cpu_us:.2f},"
        f" windows of all dimensions {windows.windows_cpu_us:.2f}"
    )
    return {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "event_bytes": expected.event_bytes,
        "results": [
            {**asdict(r), "events_per_second": r.events_per_second, "cpu_us": r.cpu_us}
            for r in results
        ],
        "stages_cpu_us": stages,
        "ratio_to_stock_faust": ratio,
        "freshness": asdict(fresh),
    }


if __name__ == "__main__":
    main()
