"""The proof from end to end: simulate with faults, kill -9 the worker meanwhile, count again.

``make test`` runs it short (test_recount.py), ``make recount EVENTS=5000000`` long.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.local.processes import wait_until
from deploy.local.simulator.records_file import read_records
from sinks.clickhouse import ClickHouseAddress, connect
from tests.conftest import (
    environment,
    run_tokentide,
    running_stack,
    stack_addresses,
    stack_pids,
    tokentide,
)
from tests.e2e.comparing import Check, Topics, compare, faults, read_topics
from tests.e2e.recount import Recount, recount
from tests.e2e.report import Report
from tests.rollups import OF_ALL

FAULTS = "duplicates=0.005,late=0.005,malformed=0.005,unknown_model=0.005"
"""Two percent, for each simulation."""
MULTILINE = ",multiline=0.0005"
DAYS = ("2026-07-29", "2026-08-03")
"""Across the end of a month: inserts are cut there. Late events start up to ten days earlier."""
DUPLICATE_WINDOW_SECONDS = 3000 * 86_400
"""The simulated days lie behind; what is sent again must be known for as long."""
WORLDS = ("openrouter-2026", "catalogue")
RESTART_SECONDS_MAX = 120.0
STORE_SECONDS_MAX = 1800.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much, and how often the worker dies.

    Attributes:
        events: In all simulations together.
        kills: In all simulations together.
        batch_rows_max: Rows in an insert; small enough that kills fall into the middle.
    """

    events: int
    kills: int
    batch_rows_max: int = 50_000


@dataclass(frozen=True)
class Kill:
    """A worker that was killed.

    Attributes:
        rows: Rows stored when it died.
    """

    pid: int
    rows: int


@dataclass(frozen=True)
class Result:
    """What a run found; it proves something if there are no differences and the kills count."""

    expected: Recount
    kills: Sequence[Kill]
    checks: Sequence[Check]
    again: Sequence[Check]
    survivors: Sequence[str]

    @property
    def differences(self) -> list[str]:
        """Return everything that is not as it must be."""
        late = [kill for kill in self.kills if not 0 < kill.rows < self.expected.stored]
        return [
            *faults(self.checks),
            *(f"after a restart: {each}" for each in faults(self.again)),
            *(f"still running: {each}" for each in self.survivors),
            *(f"worker {kill.pid} was not killed in the middle" for kill in late),
        ]


def run(plan: Plan, directory: Path, say: Say) -> Result:
    """Run the whole proof on a stack of its own in ``directory``."""
    stack = directory / "stack"
    settings = {
        "batch_rows_max": plan.batch_rows_max,
        "duplicate_window_seconds": DUPLICATE_WINDOW_SECONDS,
    }
    with _stack(stack, **settings):
        say("the stack is ready")
        kills = simulate_and_kill(plan, directory, say)
        wait_until_stored(stack)
        say("everything is stored; counting again")
        expected = recount_of([directory / f"{world}.records" for world in WORLDS], say)
        say("comparing")
        checks = [*compare_with(stack, expected, say), *check_truth(expected, directory)]
    survivors = processes_of(directory)
    with _stack(stack, **settings):
        say("started again on the same directory")
        again = [check_unchanged(stack, expected), check_new_events(stack, expected)]
    return Result(expected, kills, checks, again, [*survivors, *processes_of(directory)])


@contextmanager
def _stack(directory: Path, **settings: object) -> Iterator[None]:
    """A stack that ends well: SIGTERM, exit code 0."""
    with running_stack(directory, "--no-simulator", **settings) as process:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(RESTART_SECONDS_MAX) == 0


def simulate_and_kill(plan: Plan, directory: Path, say: Say) -> list[Kill]:
    """Simulate one world after the other; kill the worker at even distances of stored rows."""
    stack = directory / "stack"
    marks = [plan.events * (place + 1) // (plan.kills + 2) for place in range(plan.kills)]
    kills: list[Kill] = []
    for seed, world in enumerate(WORLDS, 1):
        simulator = _start_simulator(directory, world, seed, plan.events // len(WORLDS))
        try:
            reached = plan.events * seed // len(WORLDS)
            while marks and (marks[0] < reached or seed == len(WORLDS)):
                kills.append(kill_worker(stack, marks.pop(0)))
                say(f"killed worker {kills[-1].pid} at {kills[-1].rows:,} rows")
            _, told = simulator.communicate(timeout=STORE_SECONDS_MAX)
            assert simulator.returncode == 0, told
        finally:
            simulator.kill()
            simulator.wait()
        say(f"simulated {world}")
    return kills


def _start_simulator(
    directory: Path, world: str, seed: int, events: int
) -> "subprocess.Popen[str]":
    begin, end = DAYS
    arguments = {
        "--data-dir": str(directory / "stack"),
        "--world": world,
        "--seed": str(seed),
        "--events": str(events),
        "--from": begin,
        "--to": end,
        "--faults": FAULTS + MULTILINE,
        "--out": str(directory / f"{world}.records"),
        "--truth": str(directory / f"{world}.json"),
    }
    return subprocess.Popen(
        tokentide("simulate", *chain.from_iterable(arguments.items())),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def kill_worker(stack: Path, rows_min: int) -> Kill:
    """Kill -9 the worker once ``rows_min`` rows are stored and rows are landing; wait for the next.

    The next worker has its own process id; what it stores is waited for by the next kill.
    """
    pid = stack_pids(stack)["worker-0"]
    with reader(stack) as client:
        start = rows_of(client)
        landing = wait_until(lambda: rows_of(client) > max(start, rows_min - 1), STORE_SECONDS_MAX)
        assert landing, f"no rows after {start} within {STORE_SECONDS_MAX} s"
        os.kill(pid, signal.SIGKILL)
        kill = Kill(pid, rows_of(client))
    assert wait_until(lambda: stack_pids(stack).get("worker-0", pid) != pid, RESTART_SECONDS_MAX), (
        "the worker was not started again"
    )
    return kill


def wait_until_stored(stack: Path) -> None:
    """Wait for ``tokentide status --wait``."""
    done = run_tokentide(
        "status",
        "--wait",
        "--timeout",
        str(STORE_SECONDS_MAX),
        "--data-dir",
        str(stack),
        timeout_seconds=STORE_SECONDS_MAX + 60,
    )
    assert done.returncode == 0, done.stderr


def recount_of(files: Sequence[Path], say: Say) -> Recount:
    """Count again what was written down when it was sent."""
    done = 0

    def progress(records: int) -> None:
        nonlocal done
        done += records
        if done % 1_000_000 < records:
            say(f"counted {done:,} records again")

    records = chain.from_iterable(read_records(file) for file in files)
    return recount(records, now=datetime.now(UTC), progress=progress)


def compare_with(stack: Path, expected: Recount, say: Say) -> list[Check]:
    """Compare a running stack with the recount."""
    topics = read_all_topics(stack, say)
    with reader(stack) as client:
        return [*compare(expected, client, topics), check_lag(stack)]


def read_all_topics(stack: Path, say: Say) -> Topics:
    """Read what Kafka holds."""
    done = 0

    def progress(records: int) -> None:
        nonlocal done
        done += records
        if done % 1_000_000 < records:
            say(f"read {done:,} records of the topic")

    return read_topics(stack_addresses(stack)["kafka"], progress)


def check_lag(stack: Path) -> Check:
    """``tokentide status`` shows no lag, and the same rows and dead letters as everything else."""
    done = run_tokentide("status", "--format", "json", "--data-dir", str(stack))
    partitions = orjson.loads(done.stdout)
    differences = [
        f"partition {each['partition']}: {each}"
        for each in partitions
        if each["lag_records"] or _dealt_with(each) != each["end_offset"]
    ]
    return Check("status", len(partitions), tuple(differences))


def _dealt_with(partition: dict[str, int]) -> int:
    return partition["rows"] + partition["duplicates"] + partition["dead_letters"]


def check_truth(expected: Recount, directory: Path) -> list[Check]:
    """The recount agrees with what the simulators say they made: it too can be wrong."""
    truths = [orjson.loads((directory / f"{world}.json").read_bytes()) for world in WORLDS]

    def said(*path: str) -> int:
        found: list[Any] = truths
        for name in path:
            found = [each[name] for each in found]
        return sum(found)

    totals = expected.sent
    wanted = {
        "records": (said("records"), expected.records),
        "malformed": (said("malformed"), expected.refused.total()),
        "sent again": (said("duplicates"), expected.duplicates),
        "valid": (said("valid", "records"), totals[0]),
        "prompt tokens": (said("valid", "tokens_prompt"), totals[1]),
        "completion tokens": (said("valid", "tokens_completion"), totals[2]),
        "reasoning tokens": (said("valid", "tokens_reasoning"), totals[3]),
        "cached tokens": (said("valid", "tokens_cached"), totals[4]),
        "tokens unknown": (said("valid", "tokens_unknown"), totals[8]),
    }
    differences = [
        f"{name}: {counted} counted, {told} made"
        for name, (told, counted) in wanted.items()
        if counted != told
    ]
    return [Check("truth of the simulator", len(wanted), tuple(differences))]


def check_unchanged(stack: Path, expected: Recount) -> Check:
    """After a stop and a start the same rows are there, in the raw table and in the rollups."""
    with reader(stack) as client:
        found = {
            table: client.query(f"SELECT {what} FROM {table}").result_rows[0][0]
            for table, what in (
                ("usage_events", "count()"),
                *((name, "sum(requests)") for name in OF_ALL),
            )
        }
    differences = [
        f"{table}: {rows} rows, expected {expected.stored}"
        for table, rows in found.items()
        if rows != expected.stored
    ]
    return Check("rows", len(found), tuple(differences))


def check_new_events(stack: Path, expected: Recount) -> Check:
    """New events are stored on top of the old ones."""
    events = 500
    arguments = ("--events", str(events), "--from", DAYS[1], "--to", "2026-08-04", "--seed", "9")
    done = run_tokentide("simulate", *arguments, "--data-dir", str(stack))
    assert done.returncode == 0, done.stderr
    wait_until_stored(stack)
    with reader(stack) as client:
        found = rows_of(client)
    wanted = expected.stored + events
    return Check("new events", 1, () if found == wanted else (f"{found} rows, expected {wanted}",))


@contextmanager
def reader(stack: Path) -> Iterator[HttpClient]:
    """A client that may only read."""
    host, _, port = stack_addresses(stack)["clickhouse"].removeprefix("http://").rpartition(":")
    client = connect(ClickHouseAddress(host, int(port), "reader", "", "tokentide"))
    try:
        yield client
    finally:
        client.close()


def rows_of(client: HttpClient) -> int:
    """Return the rows of usage_events."""
    ((rows,),) = client.query("SELECT count() FROM usage_events").result_rows
    assert isinstance(rows, int)
    return rows


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that name the directory, this one aside."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            environ = (process / "environ").read_bytes()
        except OSError:
            continue
        names = str(directory).encode()
        if process.name != str(os.getpid()) and (names in command or names in environ):
            found.append(f"{process.name} {command.replace(bytes(1), b' ').decode()[:200]}")
    return found


# --- The long form -----------------------------------------------------------------------------


def main() -> None:
    """Run the proof with any number of events; exit code 1 if something differs."""
    parser = argparse.ArgumentParser(description="Compare SQL with an independent recount.")
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--kills", type=int, default=6)
    wanted = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory(prefix="tokentide-recount-") as directory:
        result = run(Plan(wanted.events, wanted.kills), Path(directory), report.say)
    report.show("compared with the recount", (*result.checks, *result.again))
    for each in result.differences:
        report.say(each)
    expected = result.expected
    report.say(
        f"{expected.records:,} records = {expected.stored:,} rows + {expected.refused.total():,} dead"
        f" letters + {expected.duplicates:,} sent again;"
        f" {len(result.kills)} kills; {len(result.differences)} differences"
    )
    sys.exit(bool(result.differences))


if __name__ == "__main__":
    main()
