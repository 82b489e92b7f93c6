"""Check that every rollup holds what ``usage_events`` holds.

Per hour (per day for ``usage_1d``) and measure. The rollup is read first, then the rows, once for
the settled ones and once for all: a rollup that is right lies between the two, and is equal when the
bucket has no row in flight. So a live system gives no false alarm, a bucket at rest is judged
exactly, and a bucket in motion is looked at again until it rests or has left the bounds.

Which *keys* a bucket's measures belong to is compared without grouping by them: the sum of
``hash(key) * measures`` over the rows equals the sum over the rollup's rows, whatever was merged
(modulo 2^64: two different contents agree by chance once in 1.8e19).

Cost: one pass over ten narrow columns of ``usage_events`` for all rollups, month by month; with
the keys about three times that. Memory: 744 rows of sums a month.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sinks.reconciling import (
    CheckResult,
    Difference,
    Engine,
    Findings,
    Frontier,
    Say,
    month_bounds,
    month_of,
    months_of,
    settled,
    silent,
)
from sinks.rollups import DAY_SECONDS, HOUR_SECONDS, MEASURES, ROLLUPS, Rollup

CHECK = "rollups"
PASSES_MAX = 8
PASS_WAIT_SECONDS = 0.5
ROWS_PER_READ = 10_000_000
"""Rows that one query looks at, about: each stays short, and a span with few takes one."""
EXPLAINED_MAX = 20
"""Buckets of which the differing keys are looked up: the others are told without."""
KEYS_SHOWN = 3

# Odd multipliers, so that one measure's excess does not pay for another's lack: the fractional part
# of the golden ratio times 2^64 (Knuth, TAOCP 3, 6.4), times 1, 3, 5, ...
_MULTIPLIERS = tuple((11400714819323198485 * (2 * at + 1)) % (1 << 64) for at in range(11))


_AT = {rollup.name: at for at, rollup in enumerate(ROLLUPS)}


@dataclass(frozen=True)
class Span:
    """A range of event time, UTC, half-open. Buckets that it cuts are left out."""

    start: datetime
    end: datetime

    def holds(self, bucket: "Bucket") -> bool:
        """Return whether a bucket lies in it as a whole."""
        seconds = ROLLUPS[_AT[bucket[0]]].bucket_seconds
        start = bucket[1]
        return self.start.timestamp() <= start and start + seconds <= self.end.timestamp()


Bucket = tuple[str, int]
"""Name of the rollup, start of the bucket in epoch seconds."""
Sums = tuple[int, ...]
"""The measures in the order of `Rollup.measures`."""


@dataclass(frozen=True)
class Compared:
    """One bucket: the settled rows, all rows, the rollup. Keys are hashes, 0 if not compared.

    Attributes:
        measures: Their names, in the order of the sums.
    """

    lower: Sums
    upper: Sums
    found: Sums
    row_keys: int = 0
    found_keys: int = 0
    measures: tuple[str, ...] = tuple(MEASURES)

    @property
    def at_rest(self) -> bool:
        """No row of the bucket is in flight."""
        return self.lower[0] == self.upper[0]

    def faults(self) -> list[tuple[str, int, int]]:
        """Return measure, expected and found for all that is certainly wrong."""
        sums = zip(self.measures, self.lower, self.upper, self.found, strict=True)
        wrong = [
            (name, lower if found < lower else upper, found)
            for name, lower, upper, found in sums
            if not lower <= found <= upper
        ]
        if not wrong and self.at_rest and self.row_keys != self.found_keys:
            return [("keys", self.upper[0], self.found[0])]
        return wrong


def check_rollups(
    engine: Engine,
    frontier: Callable[[], Frontier],
    *,
    spans: Sequence[Span] | None = None,
    with_keys: bool = False,
    say: Say = silent,
    sleep: Callable[[float], object] = time.sleep,
) -> CheckResult:
    """Compare the rollups with the rows.

    Args:
        frontier: Returns the committed offsets as they are now; asked before each look.
        spans: What to compare; all months that have rows by default. A month without any row in
            ``usage_events`` is not compared: its rows were dropped, the rollups are all there is.
        with_keys: Compare also which keys the measures belong to.

    Raises:
        SinkUnavailableError, FatalError: ClickHouse does not answer or refuses.
    """
    notes: list[str] = []
    if spans is None:
        spans, notes = _months(engine)
    findings = Findings()
    compared = moving = explained = 0
    told: set[Bucket] = set()
    for span in spans:
        say(f"rollups of {span.start:%Y-%m-%d %H:%M} to {span.end:%Y-%m-%d %H:%M}")
        wrong, number, in_motion = _settle(engine, frontier, span, with_keys, sleep)
        compared += number
        moving += in_motion
        for (table, start), bucket in sorted(wrong.items(), key=lambda item: item[0][::-1]):
            if (table, start) in told:
                continue  # Two spans may hold it.
            told.add((table, start))
            keys = ""
            if explained < EXPLAINED_MAX:
                explained += 1
                keys = _differing_keys(engine, ROLLUPS[_AT[table]], start)
            findings.add(_difference(table, start, bucket.faults(), keys))
    if moving:
        notes.append(
            f"{moving} buckets were filled all the while: within bounds, to be compared when they rest"
        )
    return findings.result(CHECK, compared, "buckets", notes)


def _difference(
    table: str, start: int, faults: Sequence[tuple[str, int, int]], keys: str
) -> Difference:
    """Return one difference per bucket: its first measure at fault, the others as detail."""
    instant = datetime.fromtimestamp(start, UTC)
    measure, expected, found = faults[0]
    also = ", ".join(f"{name} {after - before:+}" for name, before, after in faults[1:])
    return Difference(
        CHECK,
        f"{table} {instant:%Y-%m-%d %H:%M} {measure}",
        expected,
        found,
        "; ".join(part for part in (keys, also and f"also {also}") if part),
        month_of(instant),
    )


def bucket_of(difference: Difference) -> Bucket:
    """Return the bucket that a difference of this check is about."""
    table, *moment, _ = difference.place.split()
    start = datetime.fromisoformat(" ".join(moment)).replace(tzinfo=UTC)
    return table, int(start.timestamp())


def _months(engine: Engine) -> tuple[list[Span], list[str]]:
    found = months_of(engine, ["usage_events", *(each.name for each in ROLLUPS)])
    of_rows = set(found.pop("usage_events"))
    of_rollups = {month for months in found.values() for month in months}
    notes = [
        f"{month // 100}-{month % 100:02} has rollups but no rows in usage_events: not compared"
        for month in sorted(of_rollups - of_rows)
    ]
    return [Span(*month_bounds(month)) for month in sorted(of_rows)], notes


def _settle(
    engine: Engine,
    frontier: Callable[[], Frontier],
    span: Span,
    with_keys: bool,
    sleep: Callable[[float], object],
) -> tuple[dict[Bucket, Compared], int, int]:
    """Look until every bucket is judged: those that differ, how many there are, how many move.

    A difference counts when two looks show it, the second at rows read anew.
    """
    suspects: dict[Bucket, Compared] = {}
    wrong: dict[Bucket, Compared] = {}
    number = 0
    open_buckets: set[Bucket] | None = None
    for at in range(PASSES_MAX):
        found = _look(engine, frontier(), _narrowed(span, open_buckets), with_keys)
        found = {each: found[each] for each in found if span.holds(each)}
        if open_buckets is None:
            number = len(found)
            open_buckets = set(found)
        for bucket in list(open_buckets):
            now = found.get(bucket)
            faults = now.faults() if now else []
            if now and faults and bucket in suspects:
                wrong[bucket] = now
            if now is None or (not faults and now.at_rest) or bucket in wrong:
                open_buckets.discard(bucket)
            elif faults:
                suspects[bucket] = now
        if not open_buckets:
            break
        if at + 1 < PASSES_MAX:
            sleep(PASS_WAIT_SECONDS)
    return wrong, number, len(open_buckets or ())


def _narrowed(span: Span, buckets: set[Bucket] | None) -> Span:
    """Return the part of the span that holds the buckets."""
    if not buckets:
        return span
    start = min(at for _, at in buckets)
    end = max(at + ROLLUPS[_AT[table]].bucket_seconds for table, at in buckets)
    return Span(datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))


def _look(
    engine: Engine, frontier: Frontier, span: Span, with_keys: bool
) -> dict[Bucket, Compared]:
    """Read the rollups, then the rows."""
    found = {
        (rollup.name, start): (sums, keys)
        for rollup in ROLLUPS
        for start, sums, keys in _rollup_sums(engine, rollup, span, with_keys)
    }
    rows = _row_sums(engine, frontier, span, with_keys)
    compared = {}
    for bucket in {*found, *rows}:
        measures = tuple(ROLLUPS[_AT[bucket[0]]].measures)
        nothing = (0,) * len(measures)
        lower, upper, row_keys = rows.get(bucket, (nothing, nothing, 0))
        sums, found_keys = found.get(bucket, (nothing, 0))
        compared[bucket] = Compared(lower, upper, sums, row_keys, found_keys, measures)
    return compared


def _rollup_sums(
    engine: Engine, rollup: Rollup, span: Span, with_keys: bool
) -> list[tuple[int, Sums, int]]:
    bucket = (
        f"toUnixTimestamp(toStartOfDay({rollup.time}, 'UTC'))"
        if rollup.bucket_seconds == DAY_SECONDS
        else f"toUnixTimestamp(toStartOfHour({rollup.time}))"
    )
    keys = (
        f"sumWithOverflow({_key_hash(rollup.time, rollup.keys)} * ({_weighted(rollup.measures)}))"
    )
    rows = engine.rows(
        f"SELECT {bucket} AS bucket, {', '.join(f'sum({name})' for name in rollup.measures)},"
        f" {keys if with_keys else '0'} FROM {engine.table(rollup.name)}"
        f" WHERE {between(rollup.time, span, rollup.time == 'day')} GROUP BY bucket"
    )
    return [(int(row[0]), tuple(map(int, row[1:-1])), int(row[-1])) for row in rows]


def _row_sums(
    engine: Engine, frontier: Frontier, span: Span, with_keys: bool
) -> dict[Bucket, tuple[Sums, Sums, int]]:
    """Return settled sums, all sums and the keys' hash of each bucket, from one pass over the rows."""
    begin, end = int(span.start.timestamp()), int(span.end.timestamp())
    ((rows_of_span,),) = engine.rows(
        f"SELECT count() FROM {engine.table('usage_events')} WHERE {between('occurred_at', span)}"
    )
    reads = max(math.ceil(int(rows_of_span) / ROWS_PER_READ), 1)
    part_seconds = max(math.ceil((end - begin) / reads), HOUR_SECONDS)
    asked = ", ".join(
        f"tuple({text})"
        for rollup in ROLLUPS
        for text in (*_lower_and_upper(rollup), _keys_of_rows(rollup) if with_keys else "0")
    )
    rows = [
        row
        for start in range(begin, end, part_seconds)
        for row in engine.rows(
            f"SELECT toUnixTimestamp(toStartOfHour(occurred_at)) AS bucket, {asked}"
            f" FROM (SELECT *, {settled(frontier)} AS is_settled FROM {engine.table('usage_events')}"
            f" WHERE occurred_at >= toDateTime({start}, 'UTC')"
            f" AND occurred_at < toDateTime({min(start + part_seconds, end)}, 'UTC'))"
            " GROUP BY bucket"
        )
    ]
    sums: dict[Bucket, tuple[Sums, Sums, int]] = {}
    for row in rows:
        for at, rollup in enumerate(ROLLUPS):
            lower, upper, (keys,) = row[1 + 3 * at : 4 + 3 * at]
            if not upper[0]:
                continue
            bucket = (rollup.name, int(row[0]) // rollup.bucket_seconds * rollup.bucket_seconds)
            nothing = (0,) * len(rollup.measures)
            earlier = sums.get(bucket, (nothing, nothing, 0))
            sums[bucket] = (
                tuple(map(sum, zip(earlier[0], map(int, lower), strict=True))),
                tuple(map(sum, zip(earlier[1], map(int, upper), strict=True))),
                (earlier[2] + int(keys)) % (1 << 64),
            )
    return sums


def _lower_and_upper(rollup: Rollup) -> tuple[str, str]:
    """Return SQL for the sums of the settled rows and of all rows that a rollup counts."""
    measures = rollup.measures.values()
    lower = (f"{rollup.times} * sumIf({each}, is_settled AND {rollup.only})" for each in measures)
    upper = (f"{rollup.times} * sumIf({each}, {rollup.only})" for each in measures)
    return ", ".join(lower), ", ".join(upper)


def _keys_of_rows(rollup: Rollup) -> str:
    weighted = _weighted(rollup.measures.values())
    hashed = " + ".join(_key_hash(rollup.row_time, keys) for keys in rollup.row_keys)
    return f"sumWithOverflowIf(({hashed}) * ({weighted}), {rollup.only})"


def _weighted(measures: Iterable[str]) -> str:
    return " + ".join(
        f"toUInt64({each}) * toUInt64({factor})"
        for each, factor in zip(measures, _MULTIPLIERS, strict=False)
    )


def _key_hash(moment: str, keys: Iterable[str]) -> str:
    stamp = f"toUnixTimestamp(toDateTime({moment}, 'UTC'))"
    return f"cityHash64({stamp}, {', '.join(keys)})"


def between(column: str, span: Span, is_date: bool = False) -> str:
    """Return the condition that a column of time, or of days, lies in a span."""
    if is_date:
        last = span.end - timedelta(seconds=1)
        return f"{column} >= '{span.start:%Y-%m-%d}' AND {column} <= '{last:%Y-%m-%d}'"
    return (
        f"{column} >= toDateTime({int(span.start.timestamp())}, 'UTC')"
        f" AND {column} < toDateTime({int(span.end.timestamp())}, 'UTC')"
    )


def _differing_keys(engine: Engine, rollup: Rollup, start: int) -> str:
    """Return how many keys of a bucket differ and the first of them, for people."""
    begin = datetime.fromtimestamp(start, UTC)
    span = Span(begin, begin + timedelta(seconds=rollup.bucket_seconds))
    keys = ", ".join(rollup.keys)
    nothing = _integers("0" for _ in rollup.measures)
    sides = [
        f"SELECT toUnixTimestamp(toDateTime({rollup.time}, 'UTC')) AS moment, {keys},"
        f" [{nothing}] AS expected, [{_integers(rollup.measures)}] AS found"
        f" FROM {engine.table(rollup.name)} WHERE {between(rollup.time, span, rollup.time == 'day')}"
    ]
    for row_keys in rollup.row_keys:
        sides.append(
            f"SELECT toUnixTimestamp(toDateTime({rollup.row_time}, 'UTC')), {', '.join(row_keys)},"
            f" [{_integers(rollup.measures.values())}], [{nothing}] FROM"
            f" {engine.table('usage_events')} WHERE {between('occurred_at', span)} AND {rollup.only}"
        )
    rows = engine.rows(
        f"SELECT moment, [{', '.join(f'toString({key})' for key in rollup.keys)}] AS key,"
        " sumForEach(expected) AS e, sumForEach(found) AS f, count() OVER () AS number"
        f" FROM ({' UNION ALL '.join(sides)}) GROUP BY moment, {keys} HAVING e != f"
        f" ORDER BY abs(toInt64(e[1]) - toInt64(f[1])) DESC, moment, key LIMIT {KEYS_SHOWN}"
    )
    if not rows:
        return ""
    number = int(rows[0][-1])
    shown = "; ".join(_key_text(tuple(rollup.measures), *row[:-1]) for row in rows)
    return f"{number} {'key differs' if number == 1 else 'keys differ'}: {shown}"


def _integers(expressions: Iterable[str]) -> str:
    return ", ".join(f"toUInt64({each})" for each in expressions)


def _key_text(
    measures: Sequence[str],
    moment: int,
    key: Sequence[str],
    expected: Sequence[int],
    found: Sequence[int],
) -> str:
    name, before, after = next(
        (name, before, after)
        for name, before, after in zip(measures, expected, found, strict=True)
        if before != after
    )
    at = f"{datetime.fromtimestamp(int(moment), UTC):%H:%M}"
    return f"{at} {' / '.join(key)}: {name} {before}, found {after}"
