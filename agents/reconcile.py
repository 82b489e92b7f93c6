"""Do the books balance? All checks in one run, their repair, and the worker's own run in the background.

Guarantee: reads only, unless told to repair. The background run never stops the worker and never
makes it wait: it has its own connections, a thread of its own and one thread of ClickHouse.
"""

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog
from clickhouse_connect.driver import Client
from prometheus_client import Gauge

from schemas.errors import FatalError, RetryableError
from sinks.rebuilding import Rebuilt, months_of_repeats, rebuild_month, remove_copies
from sinks.reconciling import (
    CheckResult,
    Difference,
    Engine,
    Frontier,
    Say,
    frontier_of_rows,
    record_differences,
    silent,
)
from sinks.reconciling_ids import Copies, check_event_ids, check_recent_event_ids
from sinks.reconciling_offsets import Accounts, OffsetsChecked, check_offsets
from sinks.reconciling_rollups import ROLLUPS, Span, check_rollups
from streams.topic_offsets import UsageLog

log = structlog.get_logger()

CHECKS = ("offsets", "event_ids", "rollups")
"""What can be asked for; ``offsets`` gives two results, of lost and of repeated ones."""
RESULTS = ("offsets", "repeated_offsets", "event_ids", "rollups")

DIFFERENCES = Gauge(
    "tokentide_reconcile_differences",
    "Differences that the last check of the books found.",
    ["check"],
)
for _check in RESULTS:
    DIFFERENCES.labels(_check).set(0)
LAST_RUN = Gauge(
    "tokentide_reconcile_last_run_timestamp_seconds", "When the books were last checked to the end."
)
DURATION = Gauge(
    "tokentide_reconcile_duration_seconds", "How long the last check of the books took."
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
BACKGROUND_SETTINGS: Mapping[str, int] = {
    "max_threads": 1,
    "priority": 10,
    "max_execution_time": 120,
    "max_memory_usage": 2 << 30,
}
FIRST_OFFSETS_MAX = 1_000_000
"""Offsets of a partition that the first background run of a worker looks back."""
OFFSETS_MAX = 20_000_000
"""Offsets of a partition that any later run looks back, while differences keep it there."""
LOOK_BACK = HOUR
"""Hours of event time are compared for this long after they ended: late events fill them."""
LOOK_BACK_MAX = DAY
OPEN_BUCKETS_MAX = 24
IDS_LOOK_BACK = timedelta(minutes=5)


@dataclass(frozen=True)
class Report:
    """One run of the checks.

    Attributes:
        copies, offsets: What a repair needs of the checks that ran.
    """

    run_id: str
    checked_at: datetime
    results: tuple[CheckResult, ...]
    copies: tuple[Copies, ...] = ()
    offsets: OffsetsChecked | None = None

    @property
    def count(self) -> int:
        """Differences of all checks."""
        return sum(result.count for result in self.results)


def accounts_of(usage_log: UsageLog, since: Frontier | None = None) -> Accounts:
    """Return what Kafka knows now, the committed offsets first.

    Raises:
        RetryableError: Kafka does not answer.
    """
    committed = usage_log.committed()
    begins = usage_log.begins()
    letters = usage_log.dead_letters(since)
    return Accounts(
        committed,
        begins,
        {partition: each.offsets for partition, each in letters.items()},
        {partition: each.complete_from for partition, each in letters.items()},
    )


def frontier_of(engine: Engine, usage_log: UsageLog) -> Callable[[], dict[int, int]]:
    """Return a function that returns the committed offsets as they are now.

    Rows of a partition in which the group has committed nothing count as settled: no worker of the
    group writes them.
    """
    uncommitted = dict(frontier_of_rows(engine))
    return lambda: {**uncommitted, **usage_log.committed()}


def reconcile(
    engine: Engine,
    usage_log: UsageLog,
    *,
    window_seconds: int,
    checks: Sequence[str] = CHECKS,
    with_keys: bool = False,
    say: Say = silent,
) -> Report:
    """Run checks over everything there is.

    Args:
        window_seconds: The duplicate window; 0 leaves out the check of identifiers.
        with_keys: Compare also which keys the rollups' measures belong to.

    Raises:
        SinkUnavailableError, RetryableError, FatalError: ClickHouse or Kafka does not answer.
    """
    report = Report(uuid.uuid4().hex, datetime.now(UTC), ())
    frontier = frontier_of(engine, usage_log)
    if "offsets" in checks:
        say("offsets: reading committed offsets and dead letters")
        found = check_offsets(engine, accounts_of(usage_log), usage_log, say=say)
        results = (*report.results, found.offsets, found.repeated)
        report = replace(report, results=results, offsets=found)
    if "event_ids" in checks and window_seconds:
        result, copies = check_event_ids(engine, frontier(), window_seconds=window_seconds, say=say)
        report = replace(report, results=(*report.results, result), copies=tuple(copies))
    if "rollups" in checks:
        result = check_rollups(engine, frontier, with_keys=with_keys, say=say)
        report = replace(report, results=(*report.results, result))
    return report


def repair(
    engine: Engine, usage_log: UsageLog, report: Report, *, say: Say = silent
) -> list[Rebuilt]:
    """Repair what a report found: rows stored twice, then the rollups of their and other months.

    Raises:
        FatalError: A person is needed, or the proof failed.
        RetryableError: Kafka or ClickHouse does not answer, or rows kept coming. What was repaired
            stays; run it again.
    """
    frontier = frontier_of(engine, usage_log)
    months: dict[int, set[str]] = {}
    everything = {rollup.name for rollup in ROLLUPS}
    for month in remove_copies(engine, report.copies, say):
        months[month] = set(everything)
    repeats = months_of_repeats(engine, report.offsets.repeats) if report.offsets else {}
    for month in repeats:
        months[month] = set(everything)
    for result in report.results:
        for each in result.differences if result.check == "rollups" else ():
            months.setdefault(each.month, set()).add(each.place.split()[0])
    return [
        rebuild_month(
            engine, frontier, month, sorted(tables), repeats=repeats.get(month, ()), say=say
        )
        for month, tables in sorted(months.items())
    ]


@dataclass
class _Seen:
    """What the background run remembers from one run to the next."""

    began: datetime | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)


class BackgroundReconciler:
    """Checks what is new, again and again, in the worker that owns the first partition.

    Args:
        connect: Returns a client of its own, which is closed after the run.
        open_log: Returns Kafka's side, which is closed after the run.
        window_seconds: The duplicate window.
        interval_seconds: Pause between two runs; 0 is off.
        is_mine: Whether this worker is the one to do it, asked before each run.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Client],
        open_log: Callable[[], UsageLog],
        database: str,
        window_seconds: int,
        interval_seconds: float,
        is_mine: Callable[[], bool],
    ) -> None:
        self._connect = connect
        self._open_log = open_log
        self._database = database
        self._window_seconds = window_seconds
        self._interval_seconds = interval_seconds
        self._is_mine = is_mine
        self._seen = _Seen()

    async def run(self) -> None:
        """Check until cancelled. Whatever fails is logged, and tried again at the next turn."""
        while self._interval_seconds:
            await asyncio.sleep(self._interval_seconds)
            if not self._is_mine():
                # Another worker checks now, and tells.
                self._forget()
                continue
            try:
                await in_daemon_thread(self.run_once)
            except (FatalError, RetryableError) as error:
                log.warning("reconcile.failed", error=str(error))
            except Exception as error:
                # The worker's own work must go on, whatever is wrong with its control.
                log.error("reconcile.failed", error=repr(error))

    def _forget(self) -> None:
        self._seen = _Seen()
        for check in RESULTS:
            DIFFERENCES.labels(check).set(0)

    def run_once(self) -> list[CheckResult]:
        """Check what is new since the last run, tell by metrics, log and table.

        Raises:
            SinkUnavailableError, RetryableError, FatalError: ClickHouse or Kafka does not answer.
        """
        began = time.monotonic()
        checked_at = datetime.now(UTC)
        with closing(self._connect()) as client, self._open_log() as usage_log:
            engine = Engine(client, self._database, BACKGROUND_SETTINGS)
            results = self._check(engine, usage_log, checked_at)
            fresh = [
                replace(
                    result,
                    differences=tuple(
                        each for each in result.differences if _key(each) not in self._seen.places
                    ),
                )
                for result in results
            ]
            record_differences(engine, uuid.uuid4().hex, checked_at, fresh)
        for result in results:
            DIFFERENCES.labels(result.check).set(result.count)
            if result.count:
                log.error(
                    "reconcile.differences_found",
                    check=result.check,
                    differences=result.count,
                    places=[each.place for each in result.differences[:5]],
                )
        self._seen.places = {_key(each) for result in results for each in result.differences}
        self._seen.began = checked_at
        LAST_RUN.set(time.time())
        DURATION.set(time.monotonic() - began)
        log.debug("reconcile.finished", duration_seconds=round(time.monotonic() - began, 3))
        return results

    def _check(self, engine: Engine, usage_log: UsageLog, now: datetime) -> list[CheckResult]:
        frontier = frontier_of(engine, usage_log)
        since = self._since(usage_log)
        accounts = accounts_of(usage_log, since)
        offsets = check_offsets(
            engine,
            accounts,
            usage_log,
            since=since,
            since_seconds=int((now - DAY).timestamp()),
        )
        if not offsets.offsets.count and not offsets.repeated.count:
            self._seen.offsets = dict(accounts.committed)
        last = self._seen.began or now
        ids = check_recent_event_ids(
            engine,
            frontier(),
            window_seconds=self._window_seconds,
            since_seconds=int((last - IDS_LOOK_BACK).timestamp()),
        )
        spans = [*recent_spans(self._seen.began, now), *open_spans(self._seen.places)]
        rollups = check_rollups(engine, frontier, spans=spans)
        return [offsets.offsets, offsets.repeated, ids, rollups]

    def _since(self, usage_log: UsageLog) -> dict[int, int]:
        """Return where each partition's check begins."""
        begins = usage_log.begins()
        return {
            partition: max(self._seen.offsets[partition], committed - OFFSETS_MAX)
            if partition in self._seen.offsets
            else max(begins.get(partition, 0), committed - FIRST_OFFSETS_MAX)
            for partition, committed in usage_log.committed().items()
        }


def _key(difference: Difference) -> str:
    return f"{difference.check} {difference.place}"


def open_spans(places: Collection[str]) -> list[Span]:
    """Return the buckets that differed in the last run, the newest `OPEN_BUCKETS_MAX`.

    They are compared again until they agree: the metric tells of them until then.
    """
    sizes = {rollup.name: timedelta(seconds=rollup.bucket_seconds) for rollup in ROLLUPS}
    found = set()
    for place in places:
        check, table, *rest = place.split()
        if check == "rollups":
            start = datetime.fromisoformat(" ".join(rest[:2])).replace(tzinfo=UTC)
            found.add((start, start + sizes[table]))
    return [Span(*each) for each in sorted(found)[-OPEN_BUCKETS_MAX:]]


def recent_spans(last: datetime | None, now: datetime) -> list[Span]:
    """Return the event times that a background run compares.

    The hours since the last run and the hour before it, at most a day; and each day that has ended
    since, because `usage_1d` is compared by whole days. The first run takes yesterday.
    """
    start = max((last or now) - LOOK_BACK, now - LOOK_BACK_MAX)
    hours = Span(start.replace(minute=0, second=0, microsecond=0), now + HOUR)
    day = (last or now - DAY).replace(hour=0, minute=0, second=0, microsecond=0)
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    ended = [Span(max(day, today - DAY), today)] if day < today else []
    return [hours, *ended]


async def in_daemon_thread(function: Callable[[], object]) -> None:
    """Call a function in a thread that does not hold up the end of the process.

    Raises:
        Whatever the function raises.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def finish(error: Exception | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: Exception | None = None
        try:
            function()
        except Exception as caught:
            error = caught
        # A closed loop: the worker has stopped meanwhile.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(finish, error)

    threading.Thread(target=run, name="reconcile", daemon=True).start()
    await done
