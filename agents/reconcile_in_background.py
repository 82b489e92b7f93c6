"""The books in the background: the worker that owns the first partition checks what is new, and tells.

Guarantee: it never stops the worker and never makes it wait: it has its own connections, a thread of
its own and one thread of ClickHouse. What a rollup lacks it adds (`sinks.completing`); all else is told
by metric, log and table, and left to ``tokentide reconcile --repair``.
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

from agents.reconcile import accounts_of, complete_rollups, frontier_of
from schemas.errors import FatalError, RetryableError
from sinks.reconciling import (
    CheckResult,
    Difference,
    Engine,
    Frontier,
    record_differences,
)
from sinks.reconciling_ids import check_recent_event_ids
from sinks.reconciling_offsets import check_offsets
from sinks.reconciling_rollups import Span, bucket_of, check_rollups
from sinks.rollups import ROLLUPS
from streams.topic_offsets import UsageLog

log = structlog.get_logger()

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
INGESTED_LOOK_BACK = timedelta(minutes=5)
"""Rows of a run before may have landed in its last moments, by clocks that differ."""
FIRST_INGESTED_LOOK_BACK = HOUR
DAYS_SECONDS_MAX = 30.0
"""When one run has compared days of late events for so long, the others wait for the next."""
DAY_REST_FACTOR = 20
"""A day that gets late events all the time is compared again after so many times what it took."""


@dataclass
class _Seen:
    """What the background run remembers from one run to the next.

    Attributes:
        offsets: Where each partition's next check begins.
        days: Days of late events that are still to be compared.
        resting: When a day may be compared again, by a steady clock.
    """

    began: datetime | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    differing: tuple[Difference, ...] = ()
    days: set[datetime] = field(default_factory=set)
    resting: dict[datetime, float] = field(default_factory=dict)


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
            run_id = uuid.uuid4().hex
            known = {_key(each) for each in self._seen.differing}
            record_differences(
                engine, run_id, checked_at, [_but(known, result) for result in results]
            )
            self._tell(results)
            completed = self._complete(engine, usage_log, results)
            record_differences(engine, run_id, checked_at, completed, "repaired")
        gone = {_key(each) for result in completed for each in result.differences}
        results = [_but(gone, result) for result in results]
        for result in results:
            DIFFERENCES.labels(result.check).set(result.count)
        self._seen.differing = tuple(each for result in results for each in result.differences)
        self._seen.began = checked_at
        LAST_RUN.set(time.time())
        DURATION.set(time.monotonic() - began)
        log.debug("reconcile.finished", duration_seconds=round(time.monotonic() - began, 3))
        return results

    def _tell(self, results: Sequence[CheckResult]) -> None:
        for result in results:
            if result.count:
                log.error(
                    "reconcile.differences_found",
                    check=result.check,
                    differences=result.count,
                    places=[each.place for each in result.differences[:5]],
                )

    def _complete(
        self, engine: Engine, usage_log: UsageLog, results: Sequence[CheckResult]
    ) -> list[CheckResult]:
        """Add what rollups lack; return the differences that are gone by it."""
        frontier = frontier_of(engine, usage_log)
        lacking = [
            each for result in results if result.check == "rollups" for each in result.differences
        ]
        changed = complete_rollups(engine, frontier, lacking[-OPEN_BUCKETS_MAX:])
        if not changed:
            return []
        after = check_rollups(engine, frontier, spans=open_spans(changed))
        before = CheckResult(after.check, len(changed), "buckets", tuple(changed), len(changed))
        return [_but({_key(each) for each in after.differences}, before)]

    def _check(self, engine: Engine, usage_log: UsageLog, now: datetime) -> list[CheckResult]:
        frontier = frontier_of(engine, usage_log)
        begins = self._begins(usage_log)
        accounts = accounts_of(usage_log, begins)
        offsets = check_offsets(
            engine,
            accounts,
            usage_log,
            since=begins,
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
        spans = [*recent_spans(self._seen.began, now), *open_spans(self._seen.differing)]
        rollups = check_rollups(engine, frontier, spans=spans)
        since = (
            self._seen.began - INGESTED_LOOK_BACK
            if self._seen.began
            else now - FIRST_INGESTED_LOOK_BACK
        )
        self._seen.days |= days_of_late_events(engine, since, now)
        late = self._compare_days(engine, frontier)
        return [offsets.offsets, offsets.repeated, ids, _together(rollups, late)]

    def _compare_days(self, engine: Engine, frontier: Callable[[], Frontier]) -> list[CheckResult]:
        """Compare days of late events: their cost stays a small part, however many come."""
        results = []
        began = time.monotonic()
        seen = self._seen
        seen.resting = {day: until for day, until in seen.resting.items() if until > began}
        for day in sorted(seen.days - set(seen.resting)):
            day_began = time.monotonic()
            if day_began - began > DAYS_SECONDS_MAX:
                break
            results.append(check_rollups(engine, frontier, spans=[Span(day, day + DAY)]))
            seen.days.discard(day)
            now = time.monotonic()
            seen.resting[day] = now + DAY_REST_FACTOR * (now - day_began)
        return results

    def _begins(self, usage_log: UsageLog) -> dict[int, int]:
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


def _but(known: Collection[str], result: CheckResult) -> CheckResult:
    """Return a result without the differences of these keys."""
    kept = tuple(each for each in result.differences if _key(each) not in known)
    count = result.count - len(result.differences) + len(kept)
    return replace(result, differences=kept, count=count)


def _together(first: CheckResult, others: Sequence[CheckResult]) -> CheckResult:
    """Return results of one check as one; a bucket may be in several of them."""
    differing = {each.place: each for one in (first, *others) for each in one.differences}
    return replace(
        first,
        compared=sum(one.compared for one in (first, *others)),
        differences=tuple(differing.values()),
        count=max(len(differing), *(one.count for one in (first, *others))),
        notes=tuple(note for one in (first, *others) for note in one.notes),
    )


def open_spans(differing: Collection[Difference]) -> list[Span]:
    """Return the buckets that differed in the last run, the newest `OPEN_BUCKETS_MAX`.

    They are compared again until they agree: the metric tells of them until then.
    """
    sizes = {rollup.name: timedelta(seconds=rollup.bucket_seconds) for rollup in ROLLUPS}
    found = set()
    for each in differing:
        if each.check == "rollups":
            table, seconds = bucket_of(each)
            start = datetime.fromtimestamp(seconds, UTC)
            found.add((start, start + sizes[table]))
    return [Span(*each) for each in sorted(found)[-OPEN_BUCKETS_MAX:]]


def days_of_late_events(engine: Engine, since: datetime, now: datetime) -> set[datetime]:
    """Return the days before this one, UTC, of rows that were stored since a time.

    Cost: one column of the parts that were written or merged since.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    since_seconds = int(since.timestamp())
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    found = engine.rows(
        "SELECT DISTINCT toUnixTimestamp(toStartOfDay(occurred_at)) AS day"
        f" FROM {engine.table('usage_events')} WHERE occurred_at < toDateTime({today.timestamp():.0f}, 'UTC')"
        f" AND ingested_at >= toDateTime({since_seconds}, 'UTC') AND _part IN (SELECT name FROM system.parts"
        " WHERE database = {database:String} AND table = 'usage_events' AND active"
        f" AND modification_time >= toDateTime({since_seconds}))",
        {"database": engine.database},
    )
    return {datetime.fromtimestamp(day, UTC) for (day,) in found}


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
