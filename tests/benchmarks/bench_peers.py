"""``make bench-peers``: the same work by what others would use, on one topic, into one engine.

Every stack reads the whole topic into tables of its own, one after the other and round by round, so
that a noisy neighbour hits all. A result counts only if its rows are the same as tokentide's: a hash
over the columns of every row, sums of tokens and cost, each offset once, and every rollup.

tokentide runs as users start it, with every guarantee, panes and windows. The peers do the reading,
enriching and writing, at least once or less.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
from clickhouse_connect.driver.exceptions import DatabaseError
from rich.console import Console

from sinks.rollups import MODEL_KEYS, REQUEST_KEYS, ROLLUPS
from tests.benchmarks import freshness
from tests.benchmarks.bench import MIB, Result, drain, fill, table
from tests.benchmarks.parts import (
    PROJECT,
    Machine,
    client,
    cpu_seconds,
    end_offsets,
    machine,
    put_away,
    resident_bytes,
    run,
    tokentide,
)
from tests.benchmarks.peers import kafka_engine, report
from tests.benchmarks.peers.columns import Models

INSTALLED = PROJECT / "build" / "peers"
"""Where ``make bench-peers`` puts what the peers need: other versions than the project's."""
LOGICAL_ERROR = 49
DRAIN_SECONDS_MAX = 600.0
POLL_SECONDS = 0.2
CONFLUENT = "confluent-kafka by hand"
SCRIPTS = {
    CONFLUENT: "hand_confluent",
    "kafka-python by hand": "hand_kafka_python",
    "Quix Streams": "quix",
    "Bytewax": "bytewax_flow",
}
ENGINE = "ClickHouse Kafka engine"
STOCK = report.STOCK
OURS = report.OURS

# Columns whose content all stacks must agree on, text of the event and of its model among them.
_HASHED = (
    *("event_id", "occurred_at", "source", "request_id", "model_raw", "total_params_b"),
    *MODEL_KEYS,
    *("tokens_prompt", "tokens_completion", "tokens_reasoning", "tokens_cached", "cost_nanousd"),
    *("latency_ms", "status", "user_hash"),
    *REQUEST_KEYS,
)
RECOUNT = (
    "SELECT count(), uniqExact(kafka_partition, kafka_offset),"
    f" sum(cityHash64({', '.join(f'toString({name})' for name in _HASHED)})), sum(cost_nanousd),"
    " (SELECT sum(requests) FROM usage_1m), (SELECT sum(requests) FROM usage_1d),"
    " (SELECT sum(cost_nanousd) FROM usage_1h), (SELECT sum(requests) FROM usage_context_1h)"
    " FROM usage_events"
)


@dataclass(frozen=True)
class Stack:
    """One way to do the work.

    Attributes:
        measure: Runs it over the topic; returns the result and the database.
    """

    name: str
    measure: Callable[[Machine, int, int], tuple[Result, str]]


def stacks(stock_events: int) -> list[Stack]:
    """Return all stacks, tokentide first: its rows are what the others are compared with."""
    return [
        Stack(
            OURS,
            lambda parts, number, events: drain(parts, OURS, number, tokentide("worker"), events),
        ),
        Stack(ENGINE, drain_engine),
        *(_scripted(name, script) for name, script in SCRIPTS.items()),
        Stack(STOCK, lambda parts, number, _: _stock(parts, number, stock_events)),
    ]


def _scripted(name: str, script: str) -> Stack:
    command = _command(script)

    def measure(parts: Machine, number: int, events: int) -> tuple[Result, str]:
        result, database = drain(parts, script, number, command, events, path=INSTALLED)
        return Result(**{**asdict(result), "stack": name}), database

    return Stack(name, measure)


def _command(script: str) -> list[str]:
    return [sys.executable, "-m", f"tests.benchmarks.peers.{script}"]


def _stock(parts: Machine, number: int, events: int) -> tuple[Result, str]:
    command = [sys.executable, "-m", "tests.benchmarks.stock_faust"]
    result, database = drain(parts, "stock-faust", number, command, events)
    return Result(**{**asdict(result), "stack": STOCK}), database


def drain_engine(parts: Machine, number: int, events: int) -> tuple[Result, str]:
    """Let the engine consume by itself; it is its own worker."""
    name = f"kafka_engine_{number}"
    run(parts, "migrate", clickhouse_database=name, consumer_group=name)
    admin = client(parts.clickhouse_port, "default")
    pids = (parts.clickhouse_pid, parts.kafka_pid)
    view = set_up_engine(parts, name)
    started, before = time.monotonic(), [cpu_seconds(each) for each in pids]
    admin.command(view)
    peak, deadline = 0, started + DRAIN_SECONDS_MAX
    while True:
        ((rows,),) = admin.query(f"SELECT count() FROM {name}.usage_events").result_rows
        peak = max(peak, resident_bytes(parts.clickhouse_pid))
        if rows >= events:
            break
        if time.monotonic() > deadline:
            raise SystemExit(f"{ENGINE} did not finish: {rows:,} of {events:,} rows")
        time.sleep(POLL_SECONDS)
    seconds = time.monotonic() - started
    engine_us, broker_us = (
        (cpu_seconds(pid) - then) * 1e6 / events for pid, then in zip(pids, before, strict=True)
    )
    end_engine(parts, name)
    return Result(ENGINE, events, seconds, 0.0, engine_us, broker_us, peak / MIB, {}), name


def set_up_engine(parts: Machine, name: str) -> str:
    """Make the queue table of a database; return the statement that begins the consumption."""
    admin = client(parts.clickhouse_port, "default")
    admin.command(kafka_engine.models_table(name))
    columns = ", ".join(kafka_engine.model_columns())
    admin.command(f"INSERT INTO {name}.models ({columns}) SELECT {columns} FROM bench_models")
    *before_view, view = kafka_engine.set_up(name, parts.kafka, name)
    for statement in before_view:
        try:
            admin.command(statement)
        except DatabaseError as error:
            # The embedded engine says "Shutdown was called", and makes the table all the same.
            if error.code != LOGICAL_ERROR:
                raise
    return view


def end_engine(parts: Machine, name: str) -> None:
    """End the consumption."""
    admin = client(parts.clickhouse_port, "default")
    admin.command(f"DROP TABLE {name}.queue_to_events")
    admin.command(f"DROP TABLE {name}.queue")


@contextmanager
def engine_reading(parts: Machine, settings: Mapping[str, object]) -> Iterator[str]:
    """The engine as a stack of `freshness`; it has no page of metrics."""
    name = str(settings["clickhouse_database"])
    client(parts.clickhouse_port, "default").command(set_up_engine(parts, name))
    try:
        yield ""
    finally:
        end_engine(parts, name)


@contextmanager
def confluent_reading(parts: Machine, settings: Mapping[str, object]) -> Iterator[str]:
    """The loop over confluent-kafka as a stack of `freshness`."""
    command = _command(SCRIPTS[CONFLUENT])
    with freshness.process(parts, settings, command, "metrics", INSTALLED) as url:
        yield url


FRESH: dict[str, freshness.Reading] = {
    OURS: freshness.our_worker,
    ENGINE: engine_reading,
    CONFLUENT: confluent_reading,
}
"""Those that are measured at steady rates: ours, and the two fastest of the others."""


def measure_freshness(
    parts: Machine, rates: Sequence[int], seconds: int, console: Console
) -> tuple[dict[str, list[freshness.Freshness]], dict[str, int | None]]:
    """Return the delays of each stack at each rate, and the highest rate at which it is fresh."""

    def measure_at(stack: str, rate: int) -> freshness.Freshness:
        name = f"fresh_{list(FRESH).index(stack)}_{rate}"
        fresh = freshness.measure(parts, rate, seconds, FRESH[stack], name)
        put_away(parts.clickhouse_port, name)
        console.print(
            f"{rate:,} events/s ({fresh.made_rate:,.0f}): {stack} p99 {fresh.p99_seconds:.2f} s"
        )
        return fresh

    found: dict[str, list[freshness.Freshness]] = {stack: [] for stack in FRESH}
    for rate in rates:
        for stack in FRESH:
            found[stack].append(measure_at(stack, rate))
    highest = {
        stack: freshness.highest_rate(found[stack], partial(measure_at, stack)) for stack in FRESH
    }
    return found, highest


def note_models(parts: Machine, database: str) -> None:
    """Keep what is known of each name on the topic, for the engine's dictionary."""
    admin = client(parts.clickhouse_port, "default")
    admin.command(kafka_engine.models_table("default", "bench_models"))
    names = admin.query(f"SELECT DISTINCT model_raw FROM {database}.usage_events").result_columns[0]
    models = Models()
    models.learn(pl.Series(names, dtype=pl.String))
    rows = models.frame.select(kafka_engine.model_columns())
    filled = rows.with_columns(pl.col(pl.String).fill_null(""))
    admin.insert_arrow("bench_models", filled.to_arrow(compat_level=pl.CompatLevel.oldest()))


def main() -> None:
    """Run all rounds and write the report."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=2_000_000)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--stock-events", type=int, default=100_000)
    options.add_argument(
        "--only", action="append", help="a stack's name; may be given several times"
    )
    options.add_argument(
        "--rates", type=int, nargs="*", default=[2_000, 20_000, 60_000], help="for freshness"
    )
    options.add_argument("--fresh-seconds", type=int, default=30)
    options.add_argument("--out", type=Path, default=Path(__file__).parent / "REPORT.md")
    chosen = options.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-bench-") as directory,
        machine(Path(directory)) as parts,
    ):
        measured = measure(parts, chosen, console)
        console.print(table(measured.results))
        fresh, highest = measure_freshness(parts, chosen.rates, chosen.fresh_seconds, console)
        catch_up_seconds = freshness.seconds_to_catch_up(parts, report.CATCH_UP_RATE, "killed")
    chosen.out.write_text(
        report.write(measured, fresh, highest, catch_up_seconds, runs=chosen.runs)
    )
    (chosen.out.parent / report.CHART).write_text(report.chart(measured.results))
    console.print(f"\nwritten to {chosen.out}")


def measure(parts: Machine, chosen: argparse.Namespace, console: Console) -> report.Measured:
    """Fill the topic, run every stack over it as often as wanted."""
    console.print(f"filling the topic with {chosen.events:,} events")
    expected = fill(parts, chosen.events)
    events = sum(end_offsets(parts.kafka).values())
    wanted: Sequence[Any] = ()
    results: list[Result] = []
    disk: dict[str, float] = {}
    for number in range(chosen.runs):
        for stack in stacks(chosen.stock_events):
            if chosen.only and stack.name not in (OURS, *chosen.only):
                continue
            result, database = stack.measure(parts, number, events)
            admin = client(parts.clickhouse_port, database)
            found = admin.query(RECOUNT).result_rows[0]
            if not wanted:
                wanted = found
                note_models(parts, database)
            # Stock Faust would take minutes for the whole topic; it is stopped early.
            if stack.name != STOCK and found != wanted:
                raise SystemExit(f"{stack.name}: recount {found}, tokentide has {wanted}")
            if stack.name == OURS and number == chosen.runs - 1:
                disk = bytes_per_event(parts, database, events)
            put_away(parts.clickhouse_port, database)
            results.append(result)
            console.print(f"{number + 1}: {stack.name} {result.events_per_second:,.0f} events/s")
    return report.Measured(results, expected.event_bytes, disk)


def bytes_per_event(parts: Machine, database: str, events: int) -> dict[str, float]:
    """Merge every table of the path and return what an event takes on disk in it."""
    admin = client(parts.clickhouse_port, database)
    tables = ("usage_events", *(rollup.name for rollup in ROLLUPS))
    for name in tables:
        admin.command(f"OPTIMIZE TABLE {name} FINAL")
    found = admin.query(
        "SELECT table, sum(bytes_on_disk) FROM system.parts"
        " WHERE active AND database = currentDatabase() GROUP BY table"
    )
    sizes = {str(row[0]): int(row[1]) for row in found.result_rows}
    return {name: sizes.get(name, 0) / events for name in tables}


if __name__ == "__main__":
    main()
