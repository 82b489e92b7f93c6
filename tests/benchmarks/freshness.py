"""How long from an event produced to its row in a query's answer, and to a closed window."""

import threading
import time
from dataclasses import dataclass, field

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
WARM_UP_SECONDS = 5.0
DATABASE = "freshness"
LATENESS_SECONDS = 2
NEWEST_WINDOW = (
    "SELECT toUnixTimestamp(max(window_end)) FROM share_window_revisions"
    " WHERE dimension = 'model' AND window_seconds = 60"
)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Freshness:
    """Delays of one run at a steady rate.

    Attributes:
        p50_seconds: From the moment an event was made to the first query that counted it.
        windows: One-minute windows of the dimension model that were seen.
        window_p50_seconds: From the end of a window, and the allowed lateness, to the first query
            that had it.
        panes_cpu_us: CPU of counting panes, microseconds per event.
        windows_cpu_us: CPU of rolling windows of all dimensions, microseconds per event.
    """

    rate: int
    events: int
    p50_seconds: float
    p99_seconds: float
    windows: int
    window_p50_seconds: float
    window_max_seconds: float
    panes_cpu_us: float
    windows_cpu_us: float


@dataclass
class Watch:
    """Polls how many rows are visible, as an analyst would see them."""

    port: int
    seen: list[tuple[float, int]] = field(default_factory=list)
    windows: dict[int, float] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Poll until stopped; the time noted is that of the answer."""
        reader = client(self.port, DATABASE)
        while not self.stop.is_set():
            (count,) = reader.query("SELECT count() FROM usage_events").result_rows[0]
            self.seen.append((time.time(), count))
            (end,) = reader.query(NEWEST_WINDOW).result_rows[0]
            self.windows.setdefault(end, time.time())
            time.sleep(POLL_SECONDS)


def measure(parts: Machine, rate: int, seconds: int) -> Freshness:
    """Produce ``rate`` events a second while a worker stores them; return the delays.

    The n-th row to become visible is taken for the n-th event made: exact for the set as a whole,
    and a bound on the percentiles whichever partition was first.
    """
    port = free_port()
    settings = {
        "clickhouse_database": DATABASE,
        "consumer_group": DATABASE,
        "worker_port": port,
        "allowed_lateness_seconds": LATENESS_SECONDS,
    }
    run(parts, "migrate", **settings)
    skip_what_is_there(parts)
    log = parts.directory / "freshness.out"
    worker = Child("worker", tokentide("worker"), log, parts.environment(**settings))
    worker.start()
    watch = Watch(parts.clickhouse_port)
    thread = threading.Thread(target=watch.run)
    try:
        wait_for(lambda: _status(port) == "ready", worker)
        thread.start()
        total = int(rate * (seconds + WARM_UP_SECONDS))
        run(parts, "simulate", "--rate", str(rate), "--events", str(total))
        run(parts, "status", "--wait", "--timeout", "60", **settings)
        time.sleep(2 * POLL_SECONDS)
        stages = metrics(f"http://{LOOPBACK}:{port}/metrics")
    finally:
        watch.stop.set()
        if thread.is_alive():
            thread.join()
        worker.stop(STOP_SECONDS_MAX)
    made = produced_at(parts)
    delays = delays_of(made, watch.seen)[int(rate * WARM_UP_SECONDS) :]
    p50, p99 = np.percentile(delays, [50, 99])
    # The first one was there before, or is none.
    ends = sorted(watch.windows)[1:]
    late = [watch.windows[end] - end - LATENESS_SECONDS for end in ends]
    if not late:
        raise SystemExit("freshness: no window closed: measure for longer than 20 seconds")
    cpu_us = {
        name: stages[f'tokentide_stage_cpu_seconds_total{{stage="{name}"}}'] * 1e6 / total
        for name in ("panes", "windows")
    }
    return Freshness(
        rate,
        len(delays),
        float(p50),
        float(p99),
        len(late),
        float(np.median(late)),
        max(late),
        cpu_us["panes"],
        cpu_us["windows"],
    )


def _status(port: int) -> str:
    text = http_text(f"http://{LOOPBACK}:{port}/readyz")
    return "ready" if text is not None else ""


def skip_what_is_there(parts: Machine) -> None:
    """Start the group at the end of the topic."""
    ends = {
        TopicPartition(USAGE_TOPIC, partition): OffsetAndMetadata(offset, "", -1)
        for partition, offset in end_offsets(parts.kafka).items()
    }
    with admin_client(parts.kafka) as admin:
        admin.alter_group_offsets(DATABASE, ends)


def produced_at(parts: Machine) -> Floats:
    """Return when each event was made, epoch seconds, in order."""
    found = client(parts.clickhouse_port, DATABASE).query(
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
