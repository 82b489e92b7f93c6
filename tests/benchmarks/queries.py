"""How fast the views answer over a year, while events come in: ``make bench-queries``.

The study's market is loaded through Kafka and a worker; then every view is asked by one reader and by
eight at once, while a simulator sends live requests. How fresh those are is measured with and without
readers. Writes ``QUERIES.md``.
"""

import argparse
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from deploy.addresses import reader_address, writer_address
from deploy.cli.stack import settings_for
from deploy.report.published import LENGTHS, YEAR
from sinks.clickhouse import ClickHouseAddress, connect
from sinks.migrate import SHARE_VIEWS
from streams.settings import Settings
from tests.conftest import environment, tokentide
from tests.e2e.study import EVENTS, OUT, checked, loaded, write

HERE = Path(__file__).parent
GOAL_MS = 100.0
READERS = 8
RATE = 20_000
SECONDS_MAX = 2.0
"""For one view and number of readers."""
TIMES_MAX = 60
MERGE_SECONDS_MAX = 300.0
RESTED = ("usage_1h", "usage_1d", "usage_context_1h", "usage_sampled_1d", "usage_located_1d",
          "usage_users_1d", "usage_lengths_1d")  # fmt: skip
TOGETHER_MS_MAX = 2_000.0
"""A view that takes longer alone is not asked by many at once: it would be asked for minutes."""
FRESH_SECONDS = 20.0

TOP = {"03_open_authors", "04_top_open_models", "12_top_reasoning_models", "14_top_tool_models",
       "26_countries", "33_vendors", "34_vendor_countries", "36_churn", "37_launches", "38_users",
       "42_errors_and_caches"}  # fmt: skip
CELLS = {"07_open_categories", "08_chinese_open_categories", "09_programming_by_origin",
         "10_roleplay_by_origin", "17_lengths_by_category", "20_categories", "21_programming_by_vendor",
         "22_tags_within_categories", "23_author_profiles", "28_retention_patterns",
         "29_price_and_use_of_categories", "30_price_and_use_of_models", "30_price_elasticity"}  # fmt: skip
COLUMNS = {"38_users", "40_accounts", "42_errors_and_caches"}
SAMPLES = {"28_retention", "28_retention_patterns", "38_users", "39_new_and_returning_users"}
"""Those that can count one user in sixteen."""


@dataclass(frozen=True)
class Asked:
    """A question and how long its answers took, milliseconds.

    Attributes:
        resting_ms: By one reader while nothing comes in.
        alone_ms, together_ms: By one reader and by many, while requests come in.
    """

    name: str
    sql: str
    resting_ms: Sequence[float]
    alone_ms: Sequence[float]
    together_ms: Sequence[float]


def questions(names: Sequence[str]) -> dict[str, str]:
    """Return SQL that asks each view for the study's year, and what dashboards ask."""
    found = {}
    for name in names:
        short = name.removeprefix("study_")
        more = ", top_n = 15" if short in TOP else ", cell_min = 30" if short in CELLS else ""
        period = YEAR
        if short == "28_retention":
            more, period = ", model = 'openai/gpt-4o-mini'", LENGTHS
        if short in COLUMNS:
            more += ", column = 'vendor'"
        if short in SAMPLES:
            more += ", exact = false"
        found[name] = f"SELECT * FROM {name}({period}{more})"
    for view in SHARE_VIEWS:
        found[f"share_by_{view.name}"] = (
            f"SELECT * FROM share_by_{view.name}(from_time = '2025-11-01 00:00:00',"
            f" to_time = '2025-12-01 00:00:00', grain_seconds = 86400, top_n = 10)"
        )
    return found


def main() -> None:
    """Load, ask, write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=EVENTS)
    options.add_argument("--out", type=Path, default=HERE / "QUERIES.md")
    options.add_argument("--study", action="store_true", help="Also write STUDY.md of this load.")
    chosen = options.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="tokentide-queries-") as directory,
        loaded(Path(directory), chosen.events) as seconds,
    ):
        console.print(f"{chosen.events:,} requests stored in {seconds:,.0f} s")
        if chosen.study:
            write(checked(Path(directory)), chosen.events, OUT)
            console.print(f"written to {OUT}")
        chosen.out.write_text(measured(Path(directory), chosen.events, seconds, console), "utf-8")
    console.print(f"written to {chosen.out}")


def measured(directory: Path, events: int, seconds: float, console: Console) -> str:
    """Return the page: every view asked while live requests come in."""
    settings = settings_for(directory)
    address = reader_address(settings)
    merge(settings)
    with closing(connect(address)) as client:
        names = [
            row[0]
            for row in client.query(
                "SELECT name FROM system.tables WHERE database = currentDatabase()"
                " AND match(name, '^study_[0-9]') ORDER BY name"
            ).result_rows
        ]
    resting = {name: _times(address, sql) for name, sql in questions(names).items()}
    command = tokentide("simulate", "--rate", str(RATE), "--data-dir", str(directory))
    with (
        subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as live,
    ):
        try:
            time.sleep(10)
            alone = freshness(address, FRESH_SECONDS)
            beside: list[float] = []
            done = threading.Event()
            watcher = threading.Thread(target=_watch, args=(address, done, beside))
            watcher.start()
            found = [
                ask(address, name, sql, resting[name], console)
                for name, sql in questions(names).items()
            ]
            done.set()
            watcher.join()
        finally:
            live.terminate()
    return page(found, alone, beside, events, seconds)


def merge(settings: Settings) -> None:
    """Merge the months of rollups as an hour without new rows does, and wait for all other merges."""
    with closing(connect(writer_address(settings))) as client:
        for table in RESTED:
            client.command(f"OPTIMIZE TABLE {table} FINAL")
        ends = time.monotonic() + MERGE_SECONDS_MAX
        while time.monotonic() < ends:
            if not client.command("SELECT count() FROM system.merges"):
                return
            time.sleep(1)


def _watch(address: ClickHouseAddress, done: threading.Event, into: list[float]) -> None:
    while not done.is_set():
        into += freshness(address, 1.0)


def freshness(address: ClickHouseAddress, seconds: float) -> list[float]:
    """Return how old the newest stored event was, seconds, asked again and again."""
    found = []
    with closing(connect(address)) as client:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            ((age,),) = client.query(
                "SELECT (toUnixTimestamp64Milli(now64(3)) - toUnixTimestamp64Milli(max(occurred_at))) / 1000"
                # Of the last minute: the rest would be read whole, five times a second.
                " FROM usage_events WHERE occurred_at <= now64(3) AND occurred_at > now() - 60"
            ).result_rows
            found.append(float(age))
            time.sleep(0.2)
    return found


def ask(
    address: ClickHouseAddress, name: str, sql: str, resting: Sequence[float], console: Console
) -> Asked:
    """Return how long a question takes alone and beside others like it."""
    alone = _times(address, sql)
    if np.median(alone) > TOGETHER_MS_MAX:
        console.print(f"{name}: {np.median(resting):.0f} ms at rest, {np.median(alone):.0f} ms")
        return Asked(name, sql, resting, alone, [])
    with ThreadPoolExecutor(READERS) as pool:
        each = [pool.submit(_times, address, sql) for _ in range(READERS)]
        together = [taken for future in each for taken in future.result()]
    console.print(
        f"{name}: {np.median(resting):.0f} ms at rest, {np.median(alone):.0f} ms,"
        f" {READERS} at once {np.median(together):.0f} ms"
    )
    return Asked(name, sql, resting, alone, together)


def _times(address: ClickHouseAddress, sql: str) -> list[float]:
    found: list[float] = []
    with closing(connect(address)) as client:
        ends = time.monotonic() + SECONDS_MAX
        while not found or (time.monotonic() < ends and len(found) < TIMES_MAX):
            begun = time.monotonic()
            client.query(sql)
            found.append((time.monotonic() - begun) * 1000)
    return found


def page(
    found: Sequence[Asked],
    alone: Sequence[float],
    beside: Sequence[float],
    events: int,
    seconds: float,
) -> str:
    """Return what is written, Markdown."""
    resting, met = (
        sum(float(np.median(times)) < GOAL_MS for times in each)
        for each in ([e.resting_ms for e in found], [e.alone_ms for e in found])
    )
    lines = [
        "# How fast the views answer over a year\n",
        f"Written by `make bench-queries`; do not edit. {events:,} requests of the study's market"
        f" (105 weeks), loaded through Kafka and one worker in {seconds:,.0f} s"
        f" ({events / seconds:,.0f} a second, sending and storing); every view asked for its 56 weeks while a"
        f" simulator sends {RATE:,} requests a second, all on 2 cores. Milliseconds over HTTP, rows read by the"
        " client.\n",
        f"**{resting} of {len(found)} views answer in less than {GOAL_MS:.0f} ms (median, one reader) while"
        f" nothing comes in, {met} while requests do.** The months of rollups were merged before, as an hour"
        " without new rows does it.\n",
        "Freshness of live requests, age of the newest stored one: median"
        f" {np.median(alone):.2f} s without readers, {np.median(beside):.2f} s while they ask"
        f" (99th percentile {np.percentile(alone, 99):.2f} and {np.percentile(beside, 99):.2f} s).\n",
        f"| view | at rest, p50 | p50 | p99 | p50, {READERS} readers | p99, {READERS} readers |"
        f" below {GOAL_MS:.0f} ms |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for each in found:
        p50, p99 = np.percentile(each.alone_ms, [50, 99])
        many = (
            [f"{value:.0f}" for value in np.percentile(each.together_ms, [50, 99])]
            if each.together_ms
            else ["", ""]
        )
        rest = float(np.median(each.resting_ms))
        goal = "yes" if p50 < GOAL_MS else "at rest" if rest < GOAL_MS else "**no**"
        lines.append(
            f"| `{each.name}` | {rest:.0f} | {p50:.0f} | {p99:.0f} | {many[0]} | {many[1]} | {goal} |"
        )
    lines.append(
        f"\nThose without figures for {READERS} readers take longer than"
        f" {TOGETHER_MS_MAX / 1000:.0f} seconds alone. Views of users count one in sixteen (exact ="
        " false). `study_40_accounts` and `study_43_sessions` read `usage_events`: no rollup has the sums"
        " of an account or of a session; their cost grows with the requests of the period.\n"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
