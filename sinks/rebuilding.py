"""Make good what ClickHouse alone can: rollups from rows, and rows that are stored twice.

A month of a table is made anew in a staging table and takes the old one's place in one step
(``REPLACE PARTITION``), so no reader sees it half done. A rollup is filled by the very SELECT of its
materialised view, read from the server: there is one definition.

Rows that land while this goes on reach the old partition and would be lost with it. So the staging
table follows them, in steps by committed offset, and the swap happens only in a moment in which it
holds every row of the month, that is when the month's number of rows equals the staging table's sum
of requests; the number is taken again afterwards. If it is the same, no row landed in between. If
not, the rollups are compared with the rows, and the month is made anew if one differs. Under
traffic that never pauses the moment may not come: then this says so and changes nothing.

Cost: one read of the month's rows, day by day, all columns if rows are to be removed; disk for the
staging tables until the swap.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from schemas.errors import FatalError, RetryableError
from sinks.reconciling import (
    CheckResult,
    Engine,
    Frontier,
    Say,
    month_bounds,
    month_of,
    not_before,
    settled,
    silent,
)
from sinks.reconciling_ids import Copies, StoredRow
from sinks.reconciling_offsets import RepeatedOffsets
from sinks.reconciling_rollups import Span, check_rollups
from sinks.rollups import ROLLUPS, Rollup

EVENTS = "usage_events"
STAGING = "reconcile_staging_"
COMPLETING = "reconcile_completing_"
"""Tables of `sinks.completing`, which must not add what a rebuild has counted."""
STEPS_MAX = 200
"""Looks for a moment without a row in flight before giving up."""
STEP_WAIT_SECONDS = 0.05
ROUNDS_MAX = 3
ROWS_PER_STATEMENT = 5000
_ROLLUP = {rollup.name: rollup for rollup in ROLLUPS}


@dataclass(frozen=True)
class ChangedRows:
    """How rows of ``usage_events`` are changed while their month is made anew.

    Attributes:
        rows: Makes of a SELECT of rows, all columns, one that gives them as they are to be.
        before_swap: Called when the staging tables hold every row; rows that land meanwhile are
            waited for, and then it is called again.
    """

    rows: Callable[[str], str]
    before_swap: Callable[[], None]


UNCHANGED = ChangedRows(rows=lambda rows: rows, before_swap=lambda: None)


@dataclass(frozen=True)
class Rebuilt:
    """A month of some tables, made anew.

    Attributes:
        rows: Rows of the month in ``usage_events``.
        steps: Looks until a moment without a row in flight came.
        proof: The rollups compared with the rows afterwards.
    """

    month: int
    tables: tuple[str, ...]
    rows: int
    steps: int
    proof: CheckResult


def rebuild_month(
    engine: Engine,
    frontier: Callable[[], Frontier],
    month: int,
    tables: Sequence[str] = tuple(_ROLLUP),
    *,
    repeats: Sequence[RepeatedOffsets] = (),
    changed: ChangedRows | None = None,
    say: Say = silent,
    sleep: Callable[[float], object] = time.sleep,
) -> Rebuilt:
    """Make a month of rollups anew from ``usage_events``, and prove it.

    Args:
        frontier: Returns the committed offsets as they are now.
        month: ``YYYYMM``.
        tables: Names of rollups.
        repeats: Offsets of which ``usage_events`` is to keep one row: then it is made anew too.
        changed: How its rows change: then it is made anew too.

    Raises:
        FatalError: A view is missing, the month has no rows, another repair is under way, or the
            result differs from the rows.
        RetryableError: No moment without a row in flight came; nothing was changed.
        SinkUnavailableError: ClickHouse does not answer.
    """
    rollups = [_ROLLUP[name] for name in _ROLLUP if name in tables]
    if not _row_count(engine, EVENTS, month):
        raise FatalError(
            f"usage_events has no rows of {_text(month)}: its rollups are all there is and stay as"
            " they are"
        )
    span = Span(*month_bounds(month))
    for _ in range(ROUNDS_MAX):
        with _staging(engine, rollups, repeats, bool(repeats or changed)) as copies:
            rows, steps = _fill_and_swap(
                engine, frontier, month, rollups, changed or UNCHANGED, copies, say, sleep
            )
        say(f"{_text(month)}: comparing with the rows")
        proof = check_rollups(engine, frontier, spans=[span], with_keys=True, sleep=sleep)
        wrong = [each for each in proof.differences if each.place.split()[0] in tables]
        if not wrong:
            names = tuple(each.name for each in rollups)
            everything = (EVENTS, *names) if repeats or changed else names
            return Rebuilt(month, everything, rows, steps, proof)
        say(f"{_text(month)}: rows landed during the swap, once more")
    raise FatalError(
        f"{wrong[0].place}: {wrong[0].found}, not {wrong[0].expected}, after {ROUNDS_MAX} rebuilds:"
        " stop the workers and run it again; they catch up afterwards"
    )


def tables_like(engine: Engine, prefix: str) -> list[str]:
    """Return the names of tables that begin so."""
    found = engine.rows(
        "SELECT name FROM system.tables WHERE database = {database:String}"
        " AND startsWith(name, {prefix:String}) ORDER BY name",
        {"database": engine.database, "prefix": prefix},
    )
    return [str(name) for (name,) in found]


@contextmanager
def _staging(
    engine: Engine,
    rollups: Sequence[Rollup],
    repeats: Sequence[RepeatedOffsets],
    with_events: bool,
) -> Iterator[bool]:
    """Make the staging tables; yield whether ``usage_events`` is among them; drop them at the end."""
    names = [each.name for each in rollups] + ([EVENTS] if with_events else [])
    left = tables_like(engine, STAGING)
    if left:
        drops = "; ".join(f"DROP TABLE {engine.table(name)}" for name in left)
        raise FatalError(f"another repair is under way; if it was killed, run first: {drops}")
    try:
        for name in names:
            engine.command(f"CREATE TABLE {engine.table(STAGING + name)} AS {engine.table(name)}")
        for name in tables_like(engine, COMPLETING):
            engine.command(f"DROP TABLE IF EXISTS {engine.table(name)} SYNC")
        if with_events:
            engine.command(
                f"CREATE TABLE {engine.table(STAGING + 'repeats')}"
                " (kafka_partition UInt16, kafka_offset UInt64)"
                " ENGINE = MergeTree ORDER BY (kafka_partition, kafka_offset)"
            )
            for each in repeats:
                rows = [(each.partition, int(offset)) for offset in each.offsets]
                engine.insert(STAGING + "repeats", ("kafka_partition", "kafka_offset"), rows)
        yield with_events
    finally:
        for name in (*names, "repeats"):
            engine.command(f"DROP TABLE IF EXISTS {engine.table(STAGING + name)} SYNC")


def _fill_and_swap(
    engine: Engine,
    frontier: Callable[[], Frontier],
    month: int,
    rollups: Sequence[Rollup],
    changed: ChangedRows,
    with_events: bool,
    say: Say,
    sleep: Callable[[float], object],
) -> tuple[int, int]:
    """Fill the staging tables until they hold all rows, swap; return the rows and the steps."""
    selects = {rollup.name: select_of_view(engine, rollup) for rollup in rollups}
    reached = dict(frontier())
    removed = _fill_settled(engine, month, selects, changed, with_events, reached, say)
    start, end = month_bounds(month)
    names = [*selects, *([EVENTS] if with_events else [])]
    # The staging table that counts most of the rows tells whether it holds all of them.
    told_by = EVENTS if with_events else max(rollups, key=lambda each: each.only == "true").name
    only = "true" if with_events else _ROLLUP[told_by].only
    for step in range(1, STEPS_MAX + 1):
        rows = _row_count(engine, EVENTS, month)
        counted = _row_count(engine, EVENTS, month, only)
        staged = _staged(engine, told_by, month)
        if counted - removed == staged:
            changed.before_swap()
            counted = _row_count(engine, EVENTS, month, only)
        if counted - removed == staged:
            say(f"{_text(month)}: swapping {', '.join(names)}")
            for name in names:
                _swap(engine, name, month)
            return rows - removed, step
        now = dict(frontier())
        if now != reached:
            rows_since = f"{_times(start, end)} AND {not_before(reached)} AND {settled(now)}"
            source = changed.rows(f"SELECT * FROM {engine.table(EVENTS)} WHERE {rows_since}")
            _fill(engine, selects, with_events, source)
            reached = now
        else:
            sleep(STEP_WAIT_SECONDS)
    raise RetryableError(
        f"{_text(month)} was written to all the while ({STEPS_MAX} looks), nothing was changed:"
        " stop the workers and run it again; they catch up afterwards"
    )


def _swap(engine: Engine, name: str, month: int) -> None:
    """Put the staging table's month in the place of a table's; ClickHouse refuses an empty one."""
    ((rows,),) = engine.rows(f"SELECT count() FROM {engine.table(STAGING + name)}")
    change = f"REPLACE PARTITION {month} FROM {engine.table(STAGING + name)}"
    engine.command(
        f"ALTER TABLE {engine.table(name)} {change if rows else f'DROP PARTITION {month}'}"
    )


def _fill_settled(
    engine: Engine,
    month: int,
    selects: dict[str, str],
    changed: ChangedRows,
    with_events: bool,
    reached: Frontier,
    say: Say,
) -> int:
    """Fill the staging tables with the settled rows, day by day; return how many are left out."""
    start, end = month_bounds(month)
    events, staged = engine.table(EVENTS), engine.table(STAGING + EVENTS)
    kept = removed = 0
    if with_events:
        repeats = f"(SELECT * FROM {engine.table(STAGING + 'repeats')})"
        place = "(kafka_partition, kafka_offset)"
        condition = f"{_times(start, end)} AND {settled(reached)} AND {place} IN {repeats}"
        ((kept, all_copies),) = engine.rows(
            f"SELECT uniqExact({place}), count() FROM {events} WHERE {condition}"
        )
        removed = all_copies - kept
        one_of_each = f"ORDER BY ingested_at LIMIT 1 BY {place}"
        engine.command(
            f"INSERT INTO {staged}"
            f" {changed.rows(f'SELECT * FROM {events} WHERE {condition} {one_of_each}')}"
        )
    for day in _days(engine, month):
        say(f"{_text(month)}: {day:%Y-%m-%d}")
        of_day = _times(day, day + timedelta(days=1))
        if with_events:
            kept_rows = f"{of_day} AND {settled(reached)} AND {place} NOT IN {repeats}"
            engine.command(
                f"INSERT INTO {staged} {changed.rows(f'SELECT * FROM {events} WHERE {kept_rows}')}"
            )
            _fill(engine, selects, False, f"SELECT * FROM {staged} WHERE {of_day}")
        else:
            rows = f"SELECT * FROM {events} WHERE {of_day} AND {settled(reached)}"
            _fill(engine, selects, False, rows)
    return int(removed)


def _days(engine: Engine, month: int) -> list[datetime]:
    """Return the start of each day of a month that has rows."""
    found = engine.rows(
        "SELECT DISTINCT toUnixTimestamp(toStartOfDay(occurred_at)) AS day"
        f" FROM {engine.table(EVENTS)} WHERE toYYYYMM(occurred_at) = {month} ORDER BY day"
    )
    return [datetime.fromtimestamp(day, UTC) for (day,) in found]


def _fill(engine: Engine, selects: dict[str, str], with_events: bool, rows: str) -> None:
    """Add rows, SQL that selects them, to the staging tables."""
    if with_events:
        engine.command(f"INSERT INTO {engine.table(STAGING + EVENTS)} {rows}")
    for name, select in selects.items():
        engine.command(
            f"INSERT INTO {engine.table(STAGING + name)} {select.replace(ROWS, f'({rows})')}"
        )


ROWS = "/* rows */"


def select_of_view(engine: Engine, rollup: Rollup) -> str:
    """Return the SELECT of a rollup's view, with `ROWS` where it reads ``usage_events``.

    A view that reads another rollup gets that one's SELECT in its place.
    """
    found = engine.rows(
        "SELECT as_select FROM system.tables WHERE database = {database:String}"
        " AND name = {view:String} AND engine = 'MaterializedView'",
        {"database": engine.database, "view": rollup.view},
    )
    source = f"FROM {engine.table(rollup.source)} AS e"
    if not found:
        raise FatalError(
            f"view {rollup.view} is missing, so {rollup.name} is not filled: run: ATTACH TABLE"
            f" {engine.table(rollup.view)}; then reconcile again"
        )
    text = str(found[0][0])
    if text.count(source) != 1:
        raise FatalError(
            f"view {rollup.view} does not read {engine.table(rollup.source)} once: restore it from"
            " sinks/migrations"
        )
    rows = (
        ROWS if rollup.source == EVENTS else f"({select_of_view(engine, _ROLLUP[rollup.source])})"
    )
    return text.replace(source, f"FROM {rows} AS e")


def _times(start: datetime, end: datetime) -> str:
    return (
        f"occurred_at >= toDateTime({int(start.timestamp())}, 'UTC')"
        f" AND occurred_at < toDateTime({int(end.timestamp())}, 'UTC')"
    )


def _row_count(engine: Engine, table: str, month: int, only: str = "true") -> int:
    """Return the rows of a month: without ``only`` known from the parts, so it takes no time."""
    also = "" if only == "true" else f" AND {only}"
    ((count,),) = engine.rows(
        f"SELECT count() FROM {engine.table(table)} WHERE toYYYYMM(occurred_at) = {month}{also}"
    )
    return int(count)


def _staged(engine: Engine, name: str, month: int) -> int:
    """Return how many rows a staging table stands for."""
    if name == EVENTS:
        return _row_count(engine, STAGING + EVENTS, month)
    ((count,),) = engine.rows(f"SELECT sum(requests) FROM {engine.table(STAGING + name)}")
    return int(count) // _ROLLUP[name].times


def _text(month: int) -> str:
    return f"{month // 100}-{month % 100:02}"


def remove_copies(engine: Engine, copies: Sequence[Copies], say: Say = silent) -> list[int]:
    """Move all rows of an event but the one to keep to ``usage_duplicates``.

    The rollups of the months returned still count them: rebuild those next.

    A row is noted there first and then deleted, so a stop in between loses nothing; a second run
    goes on.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    rows = sorted(row for each in copies for row in each.others)
    by_month: dict[int, list[StoredRow]] = {}
    for row in rows:
        month = month_of(datetime.fromtimestamp(row.occurred_at_ms / 1000, UTC))
        by_month.setdefault(month, []).append(row)
    for month, of_month in sorted(by_month.items()):
        say(f"{_text(month)}: moving {len(of_month):,} rows to usage_duplicates")
        for at in range(0, len(of_month), ROWS_PER_STATEMENT):
            _move(engine, month, of_month[at : at + ROWS_PER_STATEMENT])
    return sorted(by_month)


def _move(engine: Engine, month: int, rows: Sequence[StoredRow]) -> None:
    places = ", ".join(f"({row.partition}, {row.offset})" for row in rows)
    in_places = f"(kafka_partition, kafka_offset) IN ({places})"
    duplicates = engine.table("usage_duplicates")
    columns = "kafka_partition, kafka_offset, event_id, source, occurred_at"
    engine.command(
        f"INSERT INTO {duplicates} ({columns}, ingested_at)"
        f" SELECT {columns}, now64(3, 'UTC') FROM {engine.table(EVENTS)}"
        f" WHERE toYYYYMM(occurred_at) = {month} AND {in_places} AND (kafka_partition, kafka_offset)"
        f" NOT IN (SELECT kafka_partition, kafka_offset FROM {duplicates} WHERE {in_places})"
        " LIMIT 1 BY kafka_partition, kafka_offset"
    )
    first = datetime.fromtimestamp(min(row.occurred_at_ms for row in rows) // 1000, UTC)
    last = datetime.fromtimestamp(max(row.occurred_at_ms for row in rows) // 1000 + 1, UTC)
    engine.command(
        f"DELETE FROM {engine.table(EVENTS)} WHERE {_times(first, last)} AND {in_places}"
    )


def months_of_repeats(
    engine: Engine, repeats: Sequence[RepeatedOffsets]
) -> dict[int, list[RepeatedOffsets]]:
    """Return the repeated offsets by month ``YYYYMM`` of event time."""
    found: dict[int, list[RepeatedOffsets]] = {}
    for each in repeats:
        low, high = int(each.offsets[0]), int(each.offsets[-1])
        months = engine.rows(
            f"SELECT DISTINCT toYYYYMM(occurred_at) FROM {engine.table(EVENTS)} WHERE kafka_partition"
            f" = {each.partition} AND kafka_offset >= {low} AND kafka_offset <= {high}"
        )
        for (month,) in months:
            found.setdefault(int(month), []).append(each)
    return found
