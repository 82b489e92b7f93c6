"""``make outage``: ClickHouse away while a backlog of millions grows, then back.

The engine first hangs (SIGSTOP), then it is gone (SIGKILL); all the while events are produced. The
worker must stay in its group, acknowledge nothing, say on /readyz why, and keep its memory; once the
engine is back it must drain the backlog, and every row, sum and offset must be right. The default is
two hours at 5,000 events/s.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from clickhouse_connect.driver import Client

from deploy.kafka_admin import admin_client
from deploy.local.processes import LOOPBACK, Child, free_port
from tests.benchmarks.parts import (
    STOP_SECONDS_MAX,
    Machine,
    client,
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
from tests.e2e.report import Report
from tests.e2e.scenario import DAYS, DUPLICATE_WINDOW_SECONDS
from tests.rollups import OF_ALL

MIB = 1 << 20
SAMPLE_SECONDS = 1.0
DATABASE = "outage"
DRAIN_SECONDS_MAX = 3600.0
READY_SECONDS_MAX = 30.0
"""Longest time until /readyz says that something is wrong."""
FAULTS = "duplicates=0.005,late=0.005,malformed=0.002,unknown_model=0.005"
SUMS = ("tokens_prompt", "tokens_completion", "tokens_reasoning", "tokens_cached")


@dataclass(frozen=True)
class Result:
    """What was seen; ``differences`` is empty when all is as it must be."""

    events: int
    idle_mib: float
    outage_mib: float
    drain_mib: float
    drain_seconds: float
    differences: tuple[str, ...]


class Watched:
    """A worker, looked at once a second."""

    def __init__(self, parts: Machine) -> None:
        self.port = free_port()
        self.settings = {
            "clickhouse_database": DATABASE,
            "consumer_group": DATABASE,
            "worker_port": self.port,
            "worker_name": "outage-0",
            "clickhouse_request_timeout_seconds": 10,
            "stall_seconds": 10,
            "duplicate_window_seconds": DUPLICATE_WINDOW_SECONDS,
        }
        environment = parts.environment(**self.settings)
        self.child = Child("worker", tokentide("worker"), parts.directory / "w.out", environment)

    @property
    def committed(self) -> float:
        return metrics(f"http://{LOOPBACK}:{self.port}/metrics").get(
            "tokentide_records_committed_total", 0
        )

    def is_ready(self) -> bool:
        return http_text(f"http://{LOOPBACK}:{self.port}/readyz") is not None

    def highest_mib(self, until: Callable[[], bool], seconds_max: float) -> float:
        """Return the highest resident memory until ``until()`` holds."""
        deadline = time.monotonic() + seconds_max
        highest = 0.0
        while not until():
            if self.child.exit_code is not None or time.monotonic() > deadline:
                raise SystemExit(f"the worker stopped or time ran out: see {self.child.log}")
            highest = max(highest, resident_bytes(main_pid(self.child)) / MIB)
            time.sleep(SAMPLE_SECONDS)
        return highest


@contextmanager
def simulating(parts: Machine, events: int, seed: int, truth: Path) -> Iterator[Child]:
    """Produce as fast as it goes, and write down what was produced."""
    begin, end = DAYS
    command = tokentide(
        *("simulate", "--events", str(events), "--seed", str(seed), "--faults", FAULTS),
        *("--from", begin, "--to", end, "--truth", str(truth)),
    )
    log = parts.directory / f"simulator-{seed}.out"
    source = Child("simulator", command, log, parts.environment())
    source.start()
    try:
        yield source
        if source.exit_code:
            raise SystemExit(f"the simulator failed: see {log}")
    finally:
        source.stop(STOP_SECONDS_MAX)


def outage(parts: Machine, events: int, say: Callable[[str], None]) -> Result:
    """Run the outage on broker and engine of its own."""
    watched = Watched(parts)
    for command in (("topics",), ("catalogue", "publish"), ("migrate",)):
        run(parts, *command, **watched.settings)
    truths = [parts.directory / f"truth-{seed}.json" for seed in (1, 2, 3)]
    watched.child.start()
    try:
        wait_for(watched.is_ready, watched.child)
        with simulating(parts, 50_000, 1, truths[0]) as source:
            idle_mib = watched.highest_mib(
                lambda: source.exit_code is not None and watched.committed >= total(parts),
                DRAIN_SECONDS_MAX,
            )
        landed = watched.committed
        differences: list[str] = []
        outage_mib = 0.0
        for seed, (how, number) in enumerate(
            (("hangs", signal.SIGSTOP), ("is gone", signal.SIGKILL)), 2
        ):
            os.kill(parts.clickhouse_pid, number)
            say(f"ClickHouse {how}")
            with simulating(parts, events // 2, seed, truths[seed - 1]) as source:
                highest = watched.highest_mib(
                    lambda: source.exit_code is not None, DRAIN_SECONDS_MAX
                )
            outage_mib = max(outage_mib, highest)
            say(f"backlog {total(parts) - landed:,.0f} records, worker at most {highest:,.0f} MiB")
            wait_for(lambda: not watched.is_ready(), watched.child, READY_SECONDS_MAX)
            if members(parts) != 1:
                differences.append(f"{members(parts)} members in the group while ClickHouse {how}")
        # One range per partition may have landed before its answer was lost.
        if watched.committed > landed:
            differences.append(f"{watched.committed - landed} records acknowledged in the outage")
        engine = Child(
            "clickhouse",
            tokentide(
                *("clickhouse", "--data-dir", str(parts.directory)),
                *("--port", str(parts.clickhouse_port)),
            ),
            parts.directory / "clickhouse-2.out",
        )
        engine.start()
        try:
            say("ClickHouse is back")
            started = time.monotonic()
            drain_mib = watched.highest_mib(
                lambda: watched.committed >= total(parts), DRAIN_SECONDS_MAX
            )
            drain_seconds = time.monotonic() - started
            wait_for(watched.is_ready, watched.child)
            differences += compare(client(parts.clickhouse_port, DATABASE), parts, truths)
        finally:
            engine.stop(STOP_SECONDS_MAX)
    finally:
        watched.child.stop(STOP_SECONDS_MAX)
    return Result(events, idle_mib, outage_mib, drain_mib, drain_seconds, tuple(differences))


def total(parts: Machine) -> int:
    """Return how many records the usage topic has."""
    return sum(end_offsets(parts.kafka).values())


def members(parts: Machine) -> int:
    """Return the members of the consumer group."""
    with admin_client(parts.kafka) as admin:
        (group,) = admin.describe_groups([DATABASE]).values()
    return len(group["members"])


def compare(reader: Client, parts: Machine, truths: list[Path]) -> list[str]:
    """Compare with what was produced: every sum, every rollup, every offset."""
    made = [orjson.loads(each.read_bytes()) for each in truths]

    def said(*path: str) -> int:
        found: list[Any] = made
        for name in path:
            found = [each[name] for each in found]
        return sum(found)

    wanted = {
        "requests": said("distinct", "records"),
        **{name: said("distinct", name) for name in SUMS},
    }
    sums = {name: f"sum(ifNull({name}, 0))" for name in SUMS}
    selected = {
        "usage_events": ", ".join(["count()", *sums.values()]),
        **{table: ", ".join(f"sum({name})" for name in wanted) for table in OF_ALL},
    }
    differences = []
    for table, columns in selected.items():
        (row,) = reader.query(f"SELECT {columns} FROM {table}").result_rows
        found = dict(zip(wanted, row, strict=True))
        differences += [
            f"{table} {name}: {found[name]}, expected {value}"
            for name, value in wanted.items()
            if found[name] != value
        ]
    for partition, end in end_offsets(parts.kafka).items():
        ((count, unique, highest),) = reader.query(
            "SELECT count(), uniqExact(o), max(o) FROM (SELECT kafka_offset AS o FROM usage_events"
            f" WHERE kafka_partition = {partition} UNION ALL SELECT kafka_offset"
            f" FROM usage_duplicates WHERE kafka_partition = {partition})"
        ).result_rows
        if count != unique or highest >= end:
            differences.append(f"partition {partition}: {count} rows, {unique} offsets of {end}")
    (duplicates,) = reader.query("SELECT count() FROM usage_duplicates").result_rows[0]
    if duplicates != said("duplicates"):
        differences.append(f"{duplicates} sent again, expected {said('duplicates')}")
    return differences


def main() -> None:
    """Run, say what was seen; exit code 1 if anything differs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=36_000_000)
    chosen = options.parse_args()
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-outage-") as directory,
        machine(Path(directory)) as parts,
    ):
        result = outage(parts, chosen.events, report.say)
    for each in result.differences:
        report.say(each)
    report.say(
        f"{result.events:,} events drained in {result.drain_seconds:,.0f} s,"
        f" {result.events / result.drain_seconds:,.0f} events/s; worker's resident memory at most"
        f" {result.idle_mib:,.0f} MiB before, {result.outage_mib:,.0f} MiB in the outage,"
        f" {result.drain_mib:,.0f} MiB while draining; {len(result.differences)} differences"
    )
    sys.exit(bool(result.differences))


if __name__ == "__main__":
    main()
