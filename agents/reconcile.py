"""Do the books balance? All checks in one run, and their repair.

Guarantee: reads only, unless told to repair.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from schemas.errors import FatalError
from sinks.completing import RepairUnderWayError, complete_bucket
from sinks.rebuilding import Rebuilt, months_of_repeats, rebuild_month, remove_copies
from sinks.reconciling import (
    CheckResult,
    Difference,
    Engine,
    Frontier,
    Say,
    frontier_of_rows,
    silent,
)
from sinks.reconciling_ids import Copies, check_event_ids
from sinks.reconciling_offsets import Accounts, OffsetsChecked, check_offsets
from sinks.reconciling_rollups import bucket_of, check_rollups
from sinks.rollups import ROLLUPS
from streams.topic_offsets import UsageLog

log = structlog.get_logger()

CHECKS = ("offsets", "event_ids", "rollups")
"""What can be asked for; ``offsets`` gives two results, of lost and of repeated ones."""


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


@dataclass(frozen=True)
class Repair:
    """What a repair has done.

    Attributes:
        completed: Differences of rollups that have been given what they lacked.
        rebuilt: Months that were made anew.
    """

    completed: tuple[Difference, ...]
    rebuilt: tuple[Rebuilt, ...]


def repair(engine: Engine, usage_log: UsageLog, report: Report, *, say: Say = silent) -> Repair:
    """Repair what a report found: rollups that lack rows, rows stored twice, then other rollups.

    What a rollup lacks is added, traffic or not. Only the rollups of rows that were stored twice, and
    those that differ in another way, are made anew, by month.

    Raises:
        FatalError: A person is needed, or the proof failed.
        RetryableError: Kafka or ClickHouse does not answer, or rows kept coming. What was repaired
            stays; run it again.
    """
    frontier = frontier_of(engine, usage_log)
    differing = [
        each
        for result in report.results
        if result.check == "rollups"
        for each in result.differences
    ]
    completed = complete_rollups(engine, frontier, differing, say)
    months: dict[int, set[str]] = {}
    everything = {rollup.name for rollup in ROLLUPS}
    for month in remove_copies(engine, report.copies, say):
        months[month] = set(everything)
    repeats = months_of_repeats(engine, report.offsets.repeats) if report.offsets else {}
    for month in repeats:
        months[month] = set(everything)
    for each in differing:
        if each not in completed:
            months.setdefault(each.month, set()).add(bucket_of(each)[0])
    rebuilt = [
        rebuild_month(
            engine, frontier, month, sorted(tables), repeats=repeats.get(month, ()), say=say
        )
        for month, tables in sorted(months.items())
    ]
    return Repair(tuple(completed), tuple(rebuilt))


def complete_rollups(
    engine: Engine,
    frontier: Callable[[], Frontier],
    differences: Sequence[Difference],
    say: Say = silent,
) -> list[Difference]:
    """Add what rollups lack of the rows; return the differences that this has changed.

    One that needs a rebuild stays, and is logged.

    Args:
        differences: Of rollups.

    Raises:
        SinkUnavailableError: ClickHouse does not answer.
    """
    changed = []
    for each in differences:
        if each.found >= each.expected:
            continue
        say(f"adding what {each.place} lacks")
        try:
            if complete_bucket(engine, frontier, bucket_of(each)):
                changed.append(each)
        except (FatalError, RepairUnderWayError) as error:
            log.warning("rollup.not_completed", place=each.place, error=str(error))
    return changed
