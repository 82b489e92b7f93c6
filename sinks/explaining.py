"""Why a share moved: two periods of stored events compared.

Everything is read from ``usage_events`` by event time, which is the table's first key column: at most
two hours of it. Reads only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clickhouse_connect.driver.binding import format_query_value

from schemas.panes import DIMENSIONS
from schemas.share_alert import (
    Account,
    Breakdown,
    Cause,
    Completeness,
    Contribution,
    Explanation,
    Volume,
    iso,
)
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.usage_events import TABLE

COLUMNS: Mapping[str, str] = {
    dimension: columns[0] for dimension, columns in DIMENSIONS.items() if len(columns) == 1
}
"""Dimension of a window -> column of usage_events; ``vendor_region`` is ``vendor|region``."""
BREAKDOWNS = ("model", "app", "region", "provider")
"""Dimensions that a change is divided by. Users are divided too, and told as an account."""
PERIOD_MS_MAX = 3_600_000
"""Longest period on each side of the change that is read."""
CONTRIBUTIONS_MAX = 5
REST = "(rest)"
DOMINANT = 2.0
"""One cause is named alone when it moved the log-odds so many times as much as the other."""
QUERY_SETTINGS: Mapping[str, Any] = {
    "max_execution_time": 20,
    "max_memory_usage": 2 << 30,
    "max_threads": 2,
    "priority": 5,
}

_TOKENS = "(toUInt64(ifNull(tokens_prompt, 0)) + ifNull(tokens_completion, 0))"
_AT = "fromUnixTimestamp64Milli({{{0}:Int64}}, 'UTC')"
_IN_PERIODS = f"occurred_at >= {_AT.format('from_ms')} AND occurred_at < {_AT.format('to_ms')}"
_IS_AFTER = f"occurred_at >= {_AT.format('since_ms')}"


class QueryClient(Protocol):
    """What is needed of clickhouse-connect's client."""

    def query(
        self,
        query: str | None = None,
        parameters: Any = None,
        settings: dict[str, Any] | None = None,
    ) -> Any: ...


@dataclass(frozen=True)
class Question:
    """A change to explain.

    Attributes:
        dimension, value: The series; both empty for all traffic.
        since_ms: Start of the change, event time, epoch milliseconds.
        at_ms: End of the five minutes that told it.
        is_complete: What the windows said of those.
        is_of_requests: Divide requests, not tokens.
        named: For the value ``other``: the values that had a row of their own.
    """

    dimension: str
    value: str
    since_ms: int
    at_ms: int
    is_complete: bool
    is_of_requests: bool = False
    named: tuple[str, ...] = field(default=(), repr=False)

    @property
    def periods_ms(self) -> tuple[int, int, int]:
        """Start of the period before, of the one after, and its end; event time."""
        to_ms = min(self.at_ms, self.since_ms + PERIOD_MS_MAX)
        return self.since_ms - PERIOD_MS_MAX, self.since_ms, to_ms


@dataclass(frozen=True)
class Sums:
    """Counts of one period: of the series and of all."""

    minutes: float
    requests: int
    tokens: int
    errors: int
    requests_total: int
    tokens_total: int
    errors_total: int
    partitions: int
    late: int

    def own(self) -> Volume:
        """Return the series, per minute."""
        return self._volume(self.requests, self.tokens, self.errors)

    def others(self) -> Volume:
        """Return all but the series, per minute."""
        return self._volume(
            self.requests_total - self.requests,
            self.tokens_total - self.tokens,
            self.errors_total - self.errors,
        )

    def _volume(self, *counts: int) -> Volume:
        return Volume(*(count / self.minutes for count in counts))


class Explainer:
    """Explains changes out of ``usage_events``. May be used by several threads."""

    def __init__(self, client: QueryClient, database: str) -> None:
        self._client = client
        self._table = f"{database}.{TABLE}"

    def explain(self, question: Question) -> Explanation:
        """Return what moved the share of a series.

        Raises:
            SinkUnavailableError: Not now.
            FatalError: Too much data for the limits, or the table or the user need a person.
        """
        from_ms, since_ms, to_ms = question.periods_ms
        assert from_ms < since_ms < to_ms, "empty period"
        condition, values = series_condition(question)
        parameters = {"from_ms": from_ms, "since_ms": since_ms, "to_ms": to_ms, **values}
        before, after, first_ms = self._sums(question, condition, parameters)
        totals = _denominators(question, before, after)
        breakdowns = self._breakdowns(question, condition, parameters, totals)
        share_before, share_after = (
            _ratio(sums.requests if question.is_of_requests else sums.tokens, total)
            for sums, total in zip((before, after), totals, strict=True)
        )
        account = self._account(
            question, condition, parameters, totals, change=share_after - share_before
        )
        own, others = (before.own(), after.own()), (before.others(), after.others())
        return Explanation(
            before_from=iso(first_ms),
            after_from=iso(since_ms),
            after_to=iso(to_ms),
            measure="requests" if question.is_of_requests else "tokens",
            share_before=share_before,
            share_after=share_after,
            own_before=own[0],
            own_after=own[1],
            others_before=others[0],
            others_after=others[1],
            cause=cause_of(*own, *others) if question.dimension else "",
            breakdowns=breakdowns,
            account=account,
            completeness=Completeness(
                question.is_complete,
                before.partitions,
                after.partitions,
                _ratio(after.late, after.requests_total),
            ),
            query=evidence_sql(question, self._table),
        )

    def _sums(
        self, question: Question, condition: str, parameters: Mapping[str, Any]
    ) -> tuple[Sums, Sums, int]:
        """Return both periods, and the start of the one before."""
        sql = (
            f"SELECT {_IS_AFTER} AS is_after, toUnixTimestamp64Milli(min(occurred_at)),"
            f" countIf({condition}), sumIf({_TOKENS}, {condition}),"
            f" countIf(({condition}) AND status != 'ok'), count(), sum({_TOKENS}),"
            " countIf(status != 'ok'), uniqExact(kafka_partition),"
            " countIf(has(splitByChar(',', toString(quality)), 'late'))"
            f" FROM {self._table} WHERE {_IN_PERIODS} GROUP BY is_after"
        )
        found = {bool(row[0]): row[1:] for row in self._query(sql, parameters)}
        _, since_ms, to_ms = question.periods_ms
        first_ms = begin_ms(question, int(found[False][0]) if False in found else None)
        minutes = (since_ms - first_ms) / 60_000, (to_ms - since_ms) / 60_000
        nothing = (0,) * 9
        before, after = (
            Sums(each, *(int(count) for count in found.get(is_after, nothing)[1:]))
            for each, is_after in zip(minutes, (False, True), strict=True)
        )
        return before, after, first_ms

    def _breakdowns(
        self,
        question: Question,
        condition: str,
        parameters: Mapping[str, Any],
        totals: tuple[float, float],
    ) -> tuple[Breakdown, ...]:
        names = [name for name in BREAKDOWNS if name not in _fixed(question.dimension)]
        columns = [COLUMNS[name] for name in names]
        which = ", ".join(
            f"grouping({column}) = 0, '{name}'" for name, column in zip(names, columns, strict=True)
        )
        sets = ", ".join(f"({column})" for column in columns)
        coalesced = ", ".join(
            f"grouping({column}) = 0, toString({column})" for column in columns[:-1]
        )
        amount = _amount(question)
        sql = (
            f"SELECT multiIf({which}, '') AS dimension,"
            f" multiIf({coalesced}, toString({columns[-1]})) AS name,"
            f" sumIf({amount}, NOT {_IS_AFTER}), sumIf({amount}, {_IS_AFTER})"
            f" FROM {self._table} WHERE {_IN_PERIODS} AND ({condition})"
            f" GROUP BY GROUPING SETS ({sets})"
        )
        by_dimension: dict[str, list[tuple[str, int, int]]] = {name: [] for name in names}
        for dimension, name, before, after in self._query(sql, parameters):
            by_dimension[dimension].append((name, int(before), int(after)))
        return tuple(
            Breakdown(name, contributions(rows, totals)) for name, rows in by_dimension.items()
        )

    def _account(
        self,
        question: Question,
        condition: str,
        parameters: Mapping[str, Any],
        totals: tuple[float, float],
        *,
        change: float,
    ) -> Account | None:
        """Return the account whose part of the change is the largest."""
        if not change:
            return None
        amount = _amount(question)
        moved = (
            f"sumIf({amount}, {_IS_AFTER}) / {{total_after:Float64}}"
            f" - sumIf({amount}, NOT {_IS_AFTER}) / {{total_before:Float64}}"
        )
        sql = (
            f"SELECT user_hash, {moved} AS moved FROM {self._table}"
            f" WHERE {_IN_PERIODS} AND ({condition}) AND user_hash IS NOT NULL GROUP BY user_hash"
            f" ORDER BY moved {'DESC' if change > 0 else 'ASC'}, user_hash LIMIT 1"
        )
        before, after = totals
        found = self._query(
            sql, {**parameters, "total_before": before or 1.0, "total_after": after or 1.0}
        )
        return Account(f"{found[0][0]:016x}", found[0][1] / change) if found else None

    def _query(self, sql: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        try:
            found: Sequence[Sequence[Any]] = self._client.query(
                sql, parameters=dict(parameters), settings=dict(QUERY_SETTINGS)
            ).result_rows
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error
        return found


def begin_ms(question: Question, first_event_ms: int | None) -> int:
    """Return the start of the period before: where the events begin, if it is within the hour.

    A rate over time of which nothing is stored would be too low. Whole minutes before the change.
    """
    from_ms, since_ms, _ = question.periods_ms
    if first_event_ms is None:
        return from_ms
    minutes = math.ceil((since_ms - first_event_ms) / 60_000)
    return max(since_ms - minutes * 60_000, from_ms)


def series_condition(question: Question) -> tuple[str, dict[str, Any]]:
    """Return SQL that is true for the events of a series, and the values it binds.

    Raises:
        KeyError: The dimension is not one of a window.
    """
    if not question.dimension:
        return "1", {}
    if question.value == "other":
        column = _expression(question.dimension)
        known = " AND ".join(
            f"{name} != 'unknown'"
            for name in (("vendor", "region") if "|" in column else (column,))
        )
        return (
            f"{column} NOT IN {{named:Array(String)}} AND {known}",
            {"named": [name for name in question.named if name not in ("other", "unknown")]},
        )
    if question.dimension == "vendor_region":
        vendor, _, region = question.value.partition("|")
        if not region:
            return "vendor = 'unknown' OR region = 'unknown'", {}
        return "vendor = {value:String} AND region = {region:String}", {
            "value": vendor,
            "region": region,
        }
    return f"{COLUMNS[question.dimension]} = {{value:String}}", {"value": question.value}


def _expression(dimension: str) -> str:
    return "concat(vendor, '|', region)" if dimension == "vendor_region" else COLUMNS[dimension]


def _fixed(dimension: str) -> tuple[str, ...]:
    """Return the dimensions that have one value within a series."""
    return ("region",) if dimension == "vendor_region" else (dimension,)


def _amount(question: Question) -> str:
    return "1" if question.is_of_requests else _TOKENS


def _denominators(question: Question, before: Sums, after: Sums) -> tuple[float, float]:
    """Return what counts of each period are divided by.

    For a series this is all traffic of the period. All traffic itself is compared with what it was
    before, as rates, so that the contributions add up to its relative change.
    """
    of = (
        (before.requests_total, after.requests_total)
        if question.is_of_requests
        else (before.tokens_total, after.tokens_total)
    )
    if question.dimension:
        return float(of[0]), float(of[1])
    return float(of[0]), of[0] * after.minutes / before.minutes


def contributions(
    rows: Sequence[tuple[str, int, int]], totals: tuple[float, float]
) -> tuple[Contribution, ...]:
    """Return what each value brings to the change of a share, largest first, then the rest.

    Args:
        rows: Value and its amounts before and after.
        totals: What these are divided by.
    """
    each = [
        _contribution(name, _ratio(before, totals[0]), _ratio(after, totals[1]))
        for name, before, after in rows
    ]
    each.sort(key=lambda one: (-abs(one.change), one.value))
    rest = each[CONTRIBUTIONS_MAX:]
    if not rest:
        return tuple(each)
    summed = _contribution(
        REST,
        math.fsum(one.share_before for one in rest),
        math.fsum(one.share_after for one in rest),
    )
    return (*each[:CONTRIBUTIONS_MAX], summed)


def _contribution(name: str, before: float, after: float) -> Contribution:
    return Contribution(name, before, after, after - before)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def cause_of(
    own_before: Volume, own_after: Volume, others_before: Volume, others_after: Volume
) -> Cause:
    """Return what moved a series' share of tokens.

    The change of the log-odds of its share is exactly the sum of three: the log-ratio of its own
    requests, that of the others' (negative), and that of its tokens per request against theirs.
    """
    own = _log_ratio(own_before.requests, own_after.requests)
    others = -_log_ratio(others_before.requests, others_after.requests)
    odds = _log_ratio(own_before.tokens, own_after.tokens) - _log_ratio(
        others_before.tokens, others_after.tokens
    )
    if math.isnan(own + others + odds) or not odds:
        return ""
    sign = math.copysign(1.0, odds)
    longer = sign * (odds - own - others)
    own, others = sign * own, sign * others
    if longer > max(own, others) and longer > abs(odds) / 2:
        return "tokens_per_request"
    if own >= DOMINANT * max(others, 0.0):
        return "own_volume"
    if others >= DOMINANT * max(own, 0.0):
        return "others_volume"
    return "own_and_others"


def _log_ratio(before: float, after: float) -> float:
    """Return the log of a ratio; half a request per period stands for none."""
    if before <= 0 and after <= 0:
        return math.nan
    floor = 0.5 / (PERIOD_MS_MAX / 60_000)
    return math.log(max(after, floor) / max(before, floor))


def evidence_sql(question: Question, table: str) -> str:
    """Return SQL that shows the series around the change, in five minutes; for people."""
    from_ms, _, to_ms = question.periods_ms
    condition, values = series_condition(question)
    for name, value in values.items():
        kind = "Array(String)" if isinstance(value, list) else "String"
        condition = condition.replace(f"{{{name}:{kind}}}", str(format_query_value(value)))
    tokens = "ifNull(tokens_prompt, 0) + ifNull(tokens_completion, 0)"
    shares = (
        f"sumIf({tokens}, {condition}) / sum({tokens}) AS token_share,"
        f" countIf({condition}) / count() AS request_share, countIf({condition}) AS requests,"
        if question.dimension
        else ""
    )
    return (
        f"SELECT toStartOfInterval(occurred_at, INTERVAL 5 MINUTE) AS five_minutes, {shares}"
        f" count() AS requests_total, countIf(status != 'ok') AS errors_total FROM {table}"
        f" WHERE occurred_at >= '{_literal(from_ms)}' AND occurred_at < '{_literal(to_ms)}'"
        " GROUP BY five_minutes ORDER BY five_minutes"
    )


def _literal(time_ms: int) -> str:
    return iso(time_ms).replace("T", " ").removesuffix("Z")
