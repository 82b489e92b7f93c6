"""``make soak``: what grows over minutes or hours.

The simulator fills the topic while a worker drains it: as fast as it can, so that both cores are busy
throughout, or at a steady rate. Memory, file handles, parts and lag are sampled; the verdict compares
the second half of the run with the first, after a warm-up. At the end the simulator stops, the worker
drains what is left, and as many rows must be there as the topic has records, each offset once. With
``--out`` a page is written, with a chart. Exit code 1 if the worker's memory or handles, or the parts,
grew by more than a tenth, or, at a steady rate, the lag by more than two seconds of events. Ctrl-C or
SIGTERM ends the run early; what was measured until then is judged all the same.
"""

import argparse
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kafka.admin import ConfigResource, ConfigResourceType
from rich.console import Console

from deploy.kafka_admin import admin_client
from deploy.local.processes import LOOPBACK, Child, free_port
from schemas.topics import USAGE_TOPIC
from tests.benchmarks.drawing import line_chart
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
    resident_bytes,
    run,
    tokentide,
    wait_for,
)
from tests.benchmarks.peers.report import machine_text

MIB = 1 << 20
SAMPLE_SECONDS = 2.0
WARM_UP_SECONDS = 60.0
GROWTH_MAX = 1.1
LAG_GROWTH_SECONDS_MAX = 2.0
DRAIN_SECONDS_MAX = 600.0
JUDGED = ("resident_mib", "handles", "parts")
RETAINED_BYTES = 1 << 30
"""Of a partition of the usage topic: hours at full speed must not fill a disk."""
DATABASE = "soak"
LAG = "tokentide_consumer_lag_records{"


@dataclass(frozen=True)
class Sample:
    """One look at all processes; CPU is that since their start."""

    seconds: float
    resident_mib: float
    engine_mib: float
    broker_mib: float
    handles: int
    committed: float
    parts: int
    lag: float
    cpu_seconds: float


@dataclass(frozen=True)
class End:
    """What is there once all is drained."""

    records: int
    rows: int
    offsets: int
    disk_bytes: int


WORDS = {
    "resident_mib": "memory of the worker, MiB",
    "engine_mib": "memory of the engine, MiB",
    "broker_mib": "memory of the broker, MiB",
    "handles": "file handles of the worker",
    "parts": "active parts",
    "lag": "consumer lag, records",
}


def main() -> None:
    """Run, print a row a minute, and judge."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--rate", type=int, help="events a second [default: as fast as it can]")
    options.add_argument("--out", type=Path, help="the page to write, with its chart")
    chosen = options.parse_args()
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-soak-") as directory,
        machine(Path(directory)) as parts,
    ):
        samples, end = soak(parts, chosen.minutes * 60, chosen.rate, console)
    halves = halved(samples)
    if not halves[0]:
        sys.exit(f"too short: nothing to compare after the first {WARM_UP_SECONDS:.0f} s")
    grew = grown(halves, chosen.rate)
    lines = page(samples, end, halves, grew, chosen.rate)
    console.print("\n".join(lines), markup=False)
    if chosen.out:
        chart = chosen.out.with_suffix(".svg")
        chart.write_text(memory_chart(samples))
        picture = f"![Memory over time]({chart.name})"
        chosen.out.write_text("\n".join([*lines, picture, ""]))
    if end.rows != end.records or end.offsets != end.records:
        sys.exit(f"not every record is there once: {end}")
    sys.exit(f"grew: {', '.join(grew)}" if grew else 0)


def halved(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """Return the first and the second half of what came after the warm-up."""
    warm = [each for each in samples if each.seconds >= WARM_UP_SECONDS]
    middle = len(warm) // 2
    return warm[:middle], warm[middle:]


def grown(halves: tuple[Sequence[Sample], Sequence[Sample]], rate: int | None) -> list[str]:
    """Return the names of what is higher in the second half, by its median, than it may be."""
    grew = []
    for name in JUDGED:
        first, second = (_median(half, name) for half in halves)
        if second > first * GROWTH_MAX:
            grew.append(WORDS[name])
    first, second = (_median(half, "lag") for half in halves)
    if rate and second > first + LAG_GROWTH_SECONDS_MAX * rate:
        grew.append(WORDS["lag"])
    return grew


def _median(samples: Sequence[Sample], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in samples))


def soak(
    parts: Machine, seconds: float, rate: int | None, console: Console
) -> tuple[list[Sample], End]:
    """Return the samples of a run of ``seconds``, and what was there in the end."""
    port = free_port()
    settings = {"clickhouse_database": DATABASE, "consumer_group": DATABASE, "worker_port": port}
    for command in (("topics",), ("catalogue", "publish"), ("migrate",)):
        run(parts, *command, **settings)
    limit_retention(parts.kafka)
    environment = parts.environment(**settings)
    worker = Child("worker", tokentide("worker"), parts.directory / "worker.out", environment)
    source = Child(
        "simulator",
        tokentide("simulate", "--events", "1000000000", *(("--rate", str(rate)) if rate else ())),
        parts.directory / "simulator.out",
        environment,
    )
    url = f"http://{LOOPBACK}:{port}/metrics"
    samples: list[Sample] = []
    worker.start()
    source.start()
    try:
        wait_for(lambda: http_text(url) is not None, worker)
        with suppress(KeyboardInterrupt):
            watch(parts, worker, source, url, seconds, samples, console)
        source.stop(STOP_SECONDS_MAX)
        return samples, drained(parts, worker)
    finally:
        source.stop(STOP_SECONDS_MAX)
        worker.stop(STOP_SECONDS_MAX)


def watch(
    parts: Machine,
    worker: Child,
    source: Child,
    url: str,
    seconds: float,
    samples: list[Sample],
    console: Console,
) -> None:
    """Add a look to ``samples`` every other second, for ``seconds``."""
    started = time.monotonic()
    minutes = 0
    while (now := time.monotonic() - started) < seconds:
        samples.append(look(parts, worker, url, now))
        if now >= minutes * 60:
            console.print(_row(samples[-1]), soft_wrap=True)
            minutes += 1
        if worker.exit_code is not None or source.exit_code is not None:
            raise SystemExit(f"a process ended: see {worker.log} and {source.log}")
        time.sleep(SAMPLE_SECONDS)


def limit_retention(kafka: str) -> None:
    """Let the usage topic keep its newest bytes only."""
    with admin_client(kafka) as admin:
        admin.alter_configs(
            [
                ConfigResource(
                    ConfigResourceType.TOPIC,
                    USAGE_TOPIC,
                    configs={"retention.bytes": str(RETAINED_BYTES)},
                )
            ]
        )


def look(parts: Machine, worker: Child, url: str, now: float) -> Sample:
    """Return how all processes are now."""
    pid = main_pid(worker)
    told = metrics(url)
    (count,) = (
        client(parts.clickhouse_port, DATABASE)
        .query(f"SELECT count() FROM system.parts WHERE active AND database = '{DATABASE}'")
        .result_rows[0]
    )
    return Sample(
        now,
        resident_bytes(pid) / MIB,
        resident_bytes(parts.clickhouse_pid) / MIB,
        resident_bytes(parts.kafka_pid) / MIB,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        told.get("tokentide_records_committed_total", 0),
        count,
        sum(n for name, n in told.items() if name.startswith(LAG)),
        sum(cpu_seconds(each) for each in (pid, parts.clickhouse_pid, parts.kafka_pid)),
    )


def drained(parts: Machine, worker: Child) -> End:
    """Wait until as many rows are there as the topic had records; return what is there."""
    records = sum(end_offsets(parts.kafka).values())
    reader = client(parts.clickhouse_port, DATABASE)

    def rows() -> int:
        return int(reader.query("SELECT count() FROM usage_events").result_rows[0][0])

    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    while rows() < records and time.monotonic() < deadline and worker.exit_code is None:
        time.sleep(SAMPLE_SECONDS)
    # A bitmap is exact, and small where offsets follow each other: hours are hundreds of millions.
    (offsets,) = reader.query(
        "SELECT sum(n) FROM (SELECT groupBitmap(kafka_offset) AS n FROM usage_events"
        " GROUP BY kafka_partition)"
    ).result_rows[0]
    (disk,) = reader.query(
        f"SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = '{DATABASE}'"
    ).result_rows[0]
    return End(records, rows(), int(offsets), int(disk))


def page(
    samples: Sequence[Sample],
    end: End,
    halves: tuple[Sequence[Sample], Sequence[Sample]],
    grew: Sequence[str],
    rate: int | None,
) -> list[str]:
    """Return the report, lines of Markdown."""
    first, last = samples[0], samples[-1]
    events, seconds = last.committed - first.committed, last.seconds - first.seconds
    at = f"at {rate:,} events/s" if rate else "as fast as it can"
    lines = [
        "# What grows over time",
        "",
        f"Written by `make soak`; do not edit. {machine_text()}",
        "",
        f"{last.seconds / 60:,.0f} minutes, events made {at}: {events:,.0f} stored,"
        f" {events / seconds:,.0f} a second, beside the simulator on the same cores, for"
        f" {(last.cpu_seconds - first.cpu_seconds) / events * 1e6:.1f} us of CPU of worker, engine and broker"
        " each. The halves are those of the run without its first minute; medians.",
        "",
        "| what | first half | second half | highest | judged |",
        "|---|---:|---:|---:|---|",
    ]
    for name, words in WORDS.items():
        medians = [_median(half, name) for half in halves]
        highest = max(getattr(each, name) for each in samples)
        judged = "" if not (name in JUDGED or (rate and name == "lag")) else "flat"
        cells = (f"{n:,.0f}" for n in (*medians, highest))
        lines.append(
            f"| {words} | {' | '.join(cells)} | {'**grew**' if words in grew else judged} |"
        )
    return [
        *lines,
        "",
        f"In the end the topic had {end.records:,} records, ClickHouse {end.rows:,} rows of"
        f" {end.offsets:,} offsets, {end.disk_bytes / max(end.rows, 1):.1f} bytes a row with all rollups.",
        "",
    ]


def memory_chart(samples: Sequence[Sample]) -> str:
    """Return memory against time, an SVG document."""
    names = ("resident_mib", "engine_mib", "broker_mib")
    highest = max(getattr(each, name) for each in samples for name in names)
    y_step = next(step for step in (100, 200, 500, 1_000, 2_000, 5_000) if highest / step <= 10)
    minutes = samples[-1].seconds / 60
    x_step = next(step for step in (1, 2, 5, 10, 20, 60) if minutes / step <= 14)
    stride = max(1, len(samples) // 700)
    return line_chart(
        "Resident memory, MiB",
        "minutes",
        {
            WORDS[name].removeprefix("memory of the ").removesuffix(", MiB"): [
                (each.seconds / 60, getattr(each, name)) for each in samples[::stride]
            ]
            for name in names
        },
        x_max=minutes,
        y_max=-(-highest // y_step) * y_step,
        x_step=x_step,
        y_step=y_step,
        y_is_percent=False,
    )


def _row(sample: Sample) -> str:
    return (
        f"{sample.seconds:6.0f} s  {sample.resident_mib:,.0f} MiB  engine {sample.engine_mib:,.0f} MiB"
        f"  {sample.handles} handles  {sample.parts} parts  {sample.committed:,.0f} events"
        f"  {sample.lag:,.0f} behind"
    )


if __name__ == "__main__":
    main()
