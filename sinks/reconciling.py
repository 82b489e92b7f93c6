"""What every check of the books shares: how it asks ClickHouse, and the form of what it finds.

The books: every offset that a worker has committed is one row of ``usage_events``, one of
``usage_duplicates``, one dead letter, or holds no record (``reconciling_offsets``); no event is
stored twice (``reconciling_ids``); every rollup holds what ``usage_events`` holds
(``reconciling_rollups``). ``rebuilding`` makes good what ClickHouse alone can make good.

A live system gives no false alarm because a check judges *settled* rows only: those below the
committed offset of their partition, which is read first. A worker commits a range when its block
has landed in every table, so whatever is read afterwards holds all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from clickhouse_connect.driver import Client

from sinks.clickhouse import CAUGHT, sorted_error

KEPT_MAX = 1000
"""Differences of one check that are kept with their place; beyond it they are only counted."""
SPILL_BYTES = 512 << 20
"""Memory of one GROUP BY before it goes on in files."""

_INSERT_SETTINGS: Mapping[str, Any] = {
    # Without a token equal blocks may count as one insert: here they are different rows.
    "deduplicate_insert": "disable",
    "async_insert": 0,
}

Frontier = Mapping[int, int]
"""Kafka partition -> committed offset: every row below it has landed in every table."""


@dataclass(frozen=True)
class Difference:
    """One place where the books do not balance.

    Attributes:
        check: ``offsets``, ``repeated_offsets``, ``event_ids`` or ``rollups``.
        place: For people and for SQL; equal for the same difference in two runs.
        month: Calendar month ``YYYYMM`` of event time that it lies in; 0 when that is not known.
    """

    check: str
    place: str
    expected: int
    found: int
    detail: str = ""
    month: int = 0


@dataclass(frozen=True)
class CheckResult:
    """What a check has compared and found.

    Attributes:
        compared: Number of ``unit`` that were judged.
        differences: The first `KEPT_MAX`; ``count`` is how many there are.
        notes: What could not be judged, and why: one line each.
    """

    check: str
    compared: int
    unit: str
    differences: tuple[Difference, ...] = ()
    count: int = 0
    notes: tuple[str, ...] = ()


class Findings:
    """Differences as they are found: counts all, keeps the first `KEPT_MAX`."""

    def __init__(self) -> None:
        self.count = 0
        self.kept: list[Difference] = []

    def add(self, difference: Difference) -> None:
        """Count a difference."""
        self.count += 1
        if len(self.kept) < KEPT_MAX:
            self.kept.append(difference)

    def result(
        self, check: str, compared: int, unit: str, notes: Sequence[str] = ()
    ) -> CheckResult:
        """Return the check's result."""
        return CheckResult(check, compared, unit, tuple(self.kept), self.count, tuple(notes))


class Say(Protocol):
    """Tells a person who waits what is being done."""

    def __call__(self, text: str, /) -> None: ...


def silent(_: str, /) -> None:
    """Tell nobody."""


class Engine:
    """ClickHouse as the checks ask it.

    Args:
        client: Its request timeout must allow for a query that reads a month of rows.
        database: Of the tables.
        settings: With every query: a background check sets ``max_threads`` and the like.
    """

    def __init__(
        self, client: Client, database: str, settings: Mapping[str, Any] | None = None
    ) -> None:
        self._client = client
        self.database = database
        self._settings = {"max_bytes_before_external_group_by": SPILL_BYTES, **(settings or {})}

    def table(self, name: str) -> str:
        """Return the qualified name of a table."""
        return f"{self.database}.{name}"

    def rows(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> list[tuple[Any, ...]]:
        """Return the answer of a query.

        Raises:
            SinkUnavailableError, FatalError: The server does not answer or refuses.
        """
        try:
            found = self._client.query(
                sql,
                parameters=dict(parameters or {}),
                settings={**self._settings, **(settings or {})},
            )
            return [tuple(row) for row in found.result_rows]
        except CAUGHT as error:
            raise sorted_error(error) from error

    def command(self, sql: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Run a statement. What it inserts is never taken for a repeat.

        Raises:
            SinkUnavailableError, FatalError: The server does not answer or refuses.
        """
        try:
            self._client.command(
                sql,
                parameters=dict(parameters or {}),
                settings={**self._settings, **_INSERT_SETTINGS},
            )
        except CAUGHT as error:
            raise sorted_error(error) from error

    def insert(self, table: str, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows of plain values.

        Raises:
            SinkUnavailableError, FatalError: The server does not answer or refuses.
        """
        if not rows:
            return
        try:
            self._client.insert(
                table,
                [list(row) for row in rows],
                column_names=list(names),
                database=self.database,
                settings=dict(_INSERT_SETTINGS),
            )
        except CAUGHT as error:
            raise sorted_error(error) from error


def settled(frontier: Frontier, column: str = "kafka_offset") -> str:
    """Return the condition that a row lies below the committed offset of its partition."""
    return f"{column} < {_by_partition(frontier)}"


def not_before(offsets: Frontier, column: str = "kafka_offset") -> str:
    """Return the condition that a row lies at or above an offset of its partition, 0 if none."""
    return f"{column} >= {_by_partition(offsets)}"


def _by_partition(offsets: Frontier) -> str:
    if not offsets:
        return "toUInt64(0)"
    partitions, values = zip(*sorted(offsets.items()), strict=True)
    numbers = ", ".join(f"toUInt64({value})" for value in values)
    return (
        f"transform(kafka_partition, [{', '.join(map(str, partitions))}], [{numbers}], toUInt64(0))"
    )


def frontier_of_rows(engine: Engine) -> dict[int, int]:
    """Return the offset behind the highest stored one of each partition.

    For ClickHouse alone, without Kafka: right only while nobody inserts, because the block with the
    highest offset may not have reached every rollup.
    """
    found = engine.rows(
        f"SELECT kafka_partition, max(kafka_offset) + 1 FROM {engine.table('usage_events')}"
        " GROUP BY kafka_partition"
    )
    return {int(partition): int(offset) for partition, offset in found}


def months_of(engine: Engine, tables: Sequence[str]) -> dict[str, list[int]]:
    """Return the months ``YYYYMM`` in which each table has rows, in order."""
    found = engine.rows(
        "SELECT table, toUInt32OrZero(partition) AS month FROM system.parts"
        " WHERE database = {database:String} AND table IN {tables:Array(String)} AND active"
        " AND rows > 0 GROUP BY table, month ORDER BY month",
        {"database": engine.database, "tables": list(tables)},
    )
    return {table: [int(month) for name, month in found if name == table] for table in tables}


def month_bounds(month: int) -> tuple[datetime, datetime]:
    """Return the first instant of a month ``YYYYMM`` and of the month after it, UTC."""
    year, number = divmod(month, 100)
    start = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return start, end


def month_of(instant: datetime) -> int:
    """Return the month ``YYYYMM`` of an instant, UTC."""
    return instant.year * 100 + instant.month


_COLUMNS = ("run_id", "checked_at", "check", "place", "expected", "found", "detail", "state")


def record_differences(
    engine: Engine,
    run_id: str,
    checked_at: datetime,
    results: Sequence[CheckResult],
    state: str = "found",
) -> None:
    """Write the differences that were kept into ``reconcile_differences``.

    Raises:
        SinkUnavailableError, FatalError: The server does not answer or refuses.
    """
    rows = [
        (run_id, checked_at, each.check, each.place, each.expected, each.found, each.detail, state)
        for result in results
        for each in result.differences
    ]
    engine.insert("reconcile_differences", _COLUMNS, rows)


def repaired(before: CheckResult, after: CheckResult) -> CheckResult:
    """Return the differences of ``before`` that ``after`` no longer has."""
    left = {each.place for each in after.differences}
    gone = tuple(each for each in before.differences if each.place not in left)
    return replace(before, differences=gone, count=before.count - after.count)
