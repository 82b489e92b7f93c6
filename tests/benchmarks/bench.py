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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from deploy.local.processes import LOOPBACK, Child, free_port
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
    polars_cpu_seconds,
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
    """What must be in ClickHouse after a run."""

    rows: int
    tokens: int


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
    path: Path | None = None,
) -> tuple[Result, str]:
    """Run a stack over the whole topic in a fresh group and database.

    Args:
        path: Where it finds packages of other versions than the project's.
    """
    name = f"{stack.replace('-', '_')}_{number}"
    port = free_port()
    url = f"http://{LOOPBACK}:{port}/metrics"
    settings = {"clickhouse_database": name, "consumer_group": name, "worker_port": port}
    run(parts, "migrate", **settings)
    environment = parts.environment(**settings)
    if path is not None:
        environment["PYTHONPATH"] = f"{path}:{environment['PYTHONPATH']}"
    worker = Child(stack, command, parts.directory / f"{name}.out", environment)
    worker.start()
    try:
        wait_for(lambda: http_text(url) is not None, worker)
        pid = main_pid(worker)
        pids = (pid, parts.clickhouse_pid, parts.kafka_pid)
        wait_for(lambda: metrics(url).get("tokentide_records_read_total", 0) > 0, worker)
        started, before = time.monotonic(), [cpu_seconds(each) for each in pids]
        peak = 0
        deadline = started + DRAIN_SECONDS_MAX
        while (done := metrics(url)).get("tokentide_records_committed_total", 0) < events:
            peak = max(peak, resident_bytes(pid))
            if worker.exit_code is not None or time.monotonic() > deadline:
                raise SystemExit(f"{stack} did not finish: see {worker.log}")
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - started
        after = [cpu_seconds(each) for each in pids]
        polars_us = polars_cpu_seconds(pid) * 1e6 / events
    finally:
        worker.stop(STOP_SECONDS_MAX)
    worker_us, engine_us, broker_us = (
        (b - a) * 1e6 / events for a, b in zip(before, after, strict=True)
    )
    stages = {
        stage: done.get(f'tokentide_stage_cpu_seconds_total{{stage="{stage}"}}', 0) * 1e6 / events
        for stage in STAGES
    }
    stages["decode"] += polars_us
    result = Result(stack, events, seconds, worker_us, engine_us, broker_us, peak / MIB, stages)
    return result, name


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
    run(parts, "topics")
    run(parts, "catalogue", "publish")
    # As many events a second as OpenRouter has at twice its average, up to now: all are in panes.
    start = datetime.now(UTC) - timedelta(seconds=chosen.events / EVENT_TIME_RATE)
    console.print(f"filling the topic with {chosen.events:,} events")
    truth = orjson.loads(
        run(parts, "simulate", "--events", str(chosen.events), "--from", start.isoformat())
        .strip()
        .splitlines()[-1]
    )
    totals = truth["valid"]
    expected = Expected(totals["records"], totals["tokens_prompt"] + totals["tokens_completion"])
    events = sum(end_offsets(parts.kafka).values())
    bytes_per_event = truth["bytes"] / truth["records"]
    results: list[Result] = []
    for number in range(chosen.runs):
        command = [sys.executable, "-m", "deploy.cli.main", "worker"]
        result, database = drain(parts, "tokentide", number, command, events)
        recount(parts, database, expected)
        client(parts.clickhouse_port, "default").command(f"DROP DATABASE {database}")
        results.append(result)
        console.print(f"tokentide run {number + 1}: {result.events_per_second:,.0f} events/s")
        stock = [sys.executable, "-m", "tests.benchmarks.stock_faust"]
        result, database = drain(parts, "stock-faust", number, stock, chosen.stock_events)
        client(parts.clickhouse_port, "default").command(f"DROP DATABASE {database}")
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
    console.print(
        "closed one-minute windows, readable after their end and the allowed lateness:"
        f" p50 {fresh.window_p50_seconds:.2f} s, at most {fresh.window_max_seconds:.2f} s"
        f" ({fresh.windows} windows); CPU us/event: panes {fresh.panes_cpu_us:.2f},"
        f" windows of all dimensions {fresh.windows_cpu_us:.2f}"
    )
    return {
        "machine": {"platform": platform.platform(), "python": platform.python_version()},
        "event_bytes": bytes_per_event,
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
