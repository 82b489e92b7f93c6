"""How long from an event produced to its row in a query's answer, and to a closed window."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from deploy.kafka_admin import admin_client
from deploy.local.processes import LOOPBACK, Child, free_port
from schemas.topics import USAGE_TOPIC
from tests.benchmarks.parts import (
    STOP_SECONDS_MAX,
    Machine,
    client,
    end_offsets,
    http_text,
    metrics,
    run,
    tokentide,
    wait_for,
)

POLL_SECONDS = 0.02
WINDOW_POLL_SECONDS = 0.2
"""Longer, because this question costs the engine more than a count."""
WARM_UP_SECONDS = 5.0
LATENESS_SECONDS = 2
KILL_AFTER_SECONDS, KILL_SECONDS = 10, 40
"""When the worker dies, and how long events come."""
FRESH_SECONDS = 2.0
"""The goal for 99 of 100 events."""
MADE_PART = 0.97
"""A simulator that is slower than this has not put the rate to the test."""
RATE_STEP, RATE_MAX = 5_000, 100_000
"""Between rates that are tried for the highest one, and where that ends."""
BEHIND_SECONDS = 2.0
"""An event that is seen later than this is one that had to be caught up with."""
NEWEST_WINDOW = (
    "SELECT toUnixTimestamp(max(window_end)) FROM share_window_revisions"
    " WHERE dimension = 'model' AND window_seconds = 60"
)
Floats = npt.NDArray[np.float64]


Reading = Callable[[Machine, Mapping[str, object]], AbstractContextManager[str]]
"""Reads the topic while it is entered, with these settings; gives the address of its ``/metrics``."""


@dataclass(frozen=True)
class Windows:
    """How soon closed one-minute windows of the dimension model could be read.

    Attributes:
        count: Windows that were seen.
        p50_seconds: From the end of a window, and the allowed lateness, to the first query that had it.
        panes_cpu_us: CPU of counting panes, microseconds per event.
        windows_cpu_us: CPU of rolling windows of all dimensions, microseconds per event.
    """

    count: int
    p50_seconds: float
    max_seconds: float
    panes_cpu_us: float
    windows_cpu_us: float


@dataclass(frozen=True)
class Freshness:
    """Delays of one run at a steady rate.

    Attributes:
        rate: Events a second that were asked for.
        made_rate: And that the simulator made.
        p50_seconds: From the moment an event was made to the first query that counted it.
        windows: None of a stack that has no windows.
    """

    rate: int
    made_rate: float
    events: int
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    windows: Windows | None

    @property
    def is_fresh(self) -> bool:
        """Whether 99 of 100 events were seen within `FRESH_SECONDS`, and came as fast as wanted."""
        return self.p99_seconds < FRESH_SECONDS and self.made_rate >= MADE_PART * self.rate


@dataclass
class Watch:
    """Polls how many rows are visible, as an analyst would see them, and the newest window."""

    port: int
    database: str
    seen: list[tuple[float, int]] = field(default_factory=list)
    windows: dict[int, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until stopped; the time noted is that of the answer."""
        reader = client(self.port, self.database)
        looked = 0.0
        while not self.stop.is_set():
            (count,) = reader.query("SELECT count() FROM usage_events").result_rows[0]
            self.seen.append((time.time(), count))
            if time.time() - looked >= WINDOW_POLL_SECONDS:
                (end,) = reader.query(NEWEST_WINDOW).result_rows[0]
                looked = time.time()
                self.windows.setdefault(end, looked)
            time.sleep(POLL_SECONDS)


@contextmanager
def our_worker(parts: Machine, settings: Mapping[str, object]) -> Iterator[str]:
    """tokentide as users start it."""
    with process(parts, settings, tokentide("worker"), "readyz") as url:
        yield url


@contextmanager
def process(
    parts: Machine,
    settings: Mapping[str, object],
    command: Sequence[str],
    ready: str,
    path: Path | None = None,
) -> Iterator[str]:
    """Run a worker; entered when its page ``ready`` answers. ``path`` as in `bench.drain`."""
    port = free_port()
    environment = parts.environment(**settings, worker_port=port)
    if path is not None:
        environment["PYTHONPATH"] = f"{path}:{environment['PYTHONPATH']}"
    log = parts.directory / f"{settings['clickhouse_database']}.out"
    worker = Child("worker", command, log, environment)
    worker.start()
    try:
        wait_for(lambda: http_text(f"http://{LOOPBACK}:{port}/{ready}") is not None, worker)
        yield f"http://{LOOPBACK}:{port}/metrics"
    finally:
        worker.stop(STOP_SECONDS_MAX)


def measure(
    parts: Machine, rate: int, seconds: int, reading: Reading = our_worker, name: str = "freshness"
) -> Freshness:
    """Produce ``rate`` events a second while a worker stores them; return the delays.

    The n-th row to become visible is taken for the n-th event made: exact for the set as a whole,
    and a bound on the percentiles whichever partition was first.

    Args:
        name: Database and consumer group, new ones.
    """
    settings = {
        "clickhouse_database": name,
        "consumer_group": name,
        "allowed_lateness_seconds": LATENESS_SECONDS,
    }
    run(parts, "migrate", **settings)
    skip_what_is_there(parts, name)
    watch = Watch(parts.clickhouse_port, name)
    thread = threading.Thread(target=watch.run)
    total = int(rate * (seconds + WARM_UP_SECONDS))
    with reading(parts, settings) as url:
        thread.start()
        try:
            run(parts, "simulate", "--rate", str(rate), "--events", str(total))
            run(parts, "status", "--wait", "--timeout", "60", **settings)
            time.sleep(2 * POLL_SECONDS)
            told = metrics(url) if url else {}
        finally:
            watch.stop.set()
            thread.join()
    made = produced_at(parts, name)
    delays = delays_of(made, watch.seen)[int(rate * WARM_UP_SECONDS) :]
    p50, p95, p99 = (float(each) for each in np.percentile(delays, [50, 95, 99]))
    made_rate = (len(made) - 1) / float(made[-1] - made[0])
    windows = windows_of(watch, told, total)
    return Freshness(rate, made_rate, len(delays), p50, p95, p99, windows)


def highest_rate(known: Sequence[Freshness], measure_at: Callable[[int], Freshness]) -> int | None:
    """Return the highest rate that is fresh, by halves between those that are known.

    Args:
        known: Rising rates; the first one that is not fresh is an upper bound.

    Returns:
        Events a second, within `RATE_STEP`; None if the lowest rate is not fresh.
    """
    fresh = [each.rate for each in itertools.takewhile(lambda each: each.is_fresh, known)]
    if not fresh:
        return None
    good = fresh[-1]
    bad = known[len(fresh)].rate if len(fresh) < len(known) else RATE_MAX + RATE_STEP
    while bad - good > RATE_STEP:
        rate = (good + bad) // 2 // RATE_STEP * RATE_STEP
        if measure_at(rate).is_fresh:
            good = rate
        else:
            bad = rate
    return good


def seconds_to_catch_up(parts: Machine, rate: int, name: str) -> float:
    """Kill a worker with -9 at a steady rate and start it again at once, as a supervisor does.

    Returns:
        Seconds from the kill until the last event was counted that had to wait longer than
        `BEHIND_SECONDS`.
    """
    settings = {
        "clickhouse_database": name,
        "consumer_group": name,
        "allowed_lateness_seconds": LATENESS_SECONDS,
        "worker_name": "benchmark",
    }
    run(parts, "migrate", **settings)
    skip_what_is_there(parts, name)
    watch = Watch(parts.clickhouse_port, name)
    thread = threading.Thread(target=watch.run)
    environment = parts.environment(**settings, worker_port=free_port())
    worker = Child("worker", tokentide("worker"), parts.directory / f"{name}.out", environment)
    events = str(rate * KILL_SECONDS)
    source = Child(
        "simulator",
        tokentide("simulate", "--rate", str(rate), "--events", events),
        parts.directory / f"{name}-simulator.out",
        environment,
    )
    url = f"http://{LOOPBACK}:{environment['TOKENTIDE_WORKER_PORT']}/readyz"
    worker.start()
    try:
        wait_for(lambda: http_text(url) is not None, worker)
        thread.start()
        source.start()
        wait_for(
            lambda: bool(watch.seen) and watch.seen[-1][1] >= rate * KILL_AFTER_SECONDS, worker
        )
        worker.stop(0)
        killed = time.time()
        worker.start()
        wait_for(lambda: source.exit_code is not None, worker)
        run(parts, "status", "--wait", "--timeout", "60", **settings)
        time.sleep(2 * POLL_SECONDS)
    finally:
        watch.stop.set()
        if thread.is_alive():
            thread.join()
        source.stop(STOP_SECONDS_MAX)
        worker.stop(STOP_SECONDS_MAX)
    made = produced_at(parts, name)
    delays = delays_of(made, watch.seen)
    behind = (delays > BEHIND_SECONDS) & (made + delays > killed)
    return float((made + delays)[behind].max(initial=killed) - killed)


def windows_of(watch: Watch, told: Mapping[str, float], events: int) -> Windows | None:
    """Return the delays of closed windows, if the stack has any."""
    # The first one was there before, or is none.
    ends = sorted(watch.windows)[1:]
    if not ends:
        return None
    late = [watch.windows[end] - end - LATENESS_SECONDS for end in ends]
    panes_us, windows_us = (
        told[f'tokentide_stage_cpu_seconds_total{{stage="{stage}"}}'] * 1e6 / events
        for stage in ("panes", "windows")
    )
    return Windows(len(late), float(np.median(late)), max(late), panes_us, windows_us)


def skip_what_is_there(parts: Machine, group: str) -> None:
    """Start the group at the end of the topic."""
    ends = {
        TopicPartition(USAGE_TOPIC, partition): OffsetAndMetadata(offset, "", -1)
        for partition, offset in end_offsets(parts.kafka).items()
    }
    with admin_client(parts.kafka) as admin:
        admin.alter_group_offsets(group, ends)


def produced_at(parts: Machine, database: str) -> Floats:
    """Return when each event was made, epoch seconds, in order."""
    found = client(parts.clickhouse_port, database).query(
        "SELECT toUnixTimestamp64Milli(occurred_at) FROM usage_events ORDER BY occurred_at"
    )
    return np.array([row[0] for row in found.result_rows], dtype=np.float64) / 1000


def delays_of(made: Floats, seen: list[tuple[float, int]]) -> Floats:
    """Return the delay of each event, given the counts that were seen over time."""
    times = np.array([at for at, _ in seen])
    counts = np.array([count for _, count in seen])
    first = np.searchsorted(counts, np.arange(1, len(made) + 1), side="left")
    if first.max(initial=0) >= len(times):
        raise SystemExit("freshness: some rows were never seen")
    return times[first] - made
