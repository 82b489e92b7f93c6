"""Panes made by ClickHouse of what is stored: windows are rebuilt and revised from them.

The same form and the same numbers as the panes that workers publish (`schemas.panes`).
"""

import math
from collections.abc import Mapping, Sequence

import pyarrow as pa

from schemas.panes import (
    DIMENSIONS,
    MEASURES,
    PAIR_SEPARATOR,
    PANE_MS,
    PANES,
    RANK_BITS,
    REGISTERS,
    UNKNOWN,
)
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.stored_events import QueryClient
from sinks.usage_events import TABLE

NO_USER = REGISTERS
"""In place of a register, for requests whose user is not known."""


class PaneCounts:
    """Counts panes in ``usage_events``.

    Args:
        client: One thread at a time.
        database: Where the table is.
        tokens_cap: See `schemas.panes.MEASURES`.
        answer_seconds_max: When the client has given up, ClickHouse must too: a question that is
            asked again would be answered many times at once.
    """

    def __init__(
        self, client: QueryClient, database: str, tokens_cap: int, answer_seconds_max: float
    ) -> None:
        self._client = client
        self._table = f"{database}.{TABLE}"
        self._tokens_cap = tokens_cap
        self._answer_seconds_max = max(math.floor(answer_seconds_max), 1)

    def stored_ms(self) -> tuple[int, int]:
        """Return the event times ``[from, to)`` of all rows, epoch milliseconds; ``(0, 0)`` if none.

        Known from the parts, so it takes no time.

        Raises:
            SinkUnavailableError, FatalError: As `read`.
        """
        found = self._query(
            "SELECT if(count() = 0, 0, toUnixTimestamp64Milli(min(occurred_at))) AS first_ms,"
            " if(count() = 0, 0, toUnixTimestamp64Milli(max(occurred_at)) + 1) AS end_ms"
            f" FROM {self._table}"
        )
        return int(found["first_ms"][0].as_py()), int(found["end_ms"][0].as_py())

    def read(
        self,
        dimensions: Sequence[str],
        length_ms: int,
        from_ms: int,
        to_ms: int,
        *,
        above: Mapping[int, int] | None = None,
        below: Mapping[int, int] | None = None,
    ) -> pa.Table:
        """Return panes of event times ``[from_ms, to_ms)``, in the form of `PANES`.

        Args:
            dimensions: Of `DIMENSIONS`.
            length_ms: Length of a pane; they are aligned to the epoch.
            from_ms: Epoch milliseconds, as is ``to_ms``. Panes may be asked for in pieces: those of
                one pane add up.
            to_ms: See there.
            above: Only offsets at or above these, by partition of the usage topic; 0 where none is
                given.
            below: Only offsets below these; ``None`` is all.

        Raises:
            SinkUnavailableError: Not now.
            FatalError: A person is needed.
        """
        if from_ms >= to_ms:
            return PANES.empty_table()
        where = (
            f"occurred_at >= fromUnixTimestamp64Milli({from_ms:d}, 'UTC')"
            f" AND occurred_at < fromUnixTimestamp64Milli({to_ms:d}, 'UTC')"
        )
        if below is not None:
            where += f" AND ({_offsets(above or {}, below)})"
        return in_form(
            self._query(_sql(dimensions, self._table, length_ms, self._tokens_cap, where))
        )

    def late_panes_ms(
        self, from_ms: int, to_ms: int, *, above: Mapping[int, int], below: Mapping[int, int]
    ) -> list[int]:
        """Return the starts of panes that have rows at offsets in these ranges.

        Args:
            from_ms: Event times ``[from_ms, to_ms)``, epoch milliseconds.
            to_ms: See there.
            above: First offset, by partition of the usage topic; 0 where none is given.
            below: First offset behind.

        Raises:
            SinkUnavailableError, FatalError: As `read`.
        """
        if from_ms >= to_ms:
            return []
        found = self._query(
            f"SELECT DISTINCT toInt64(intDiv(toUnixTimestamp64Milli(occurred_at), {PANE_MS})"
            f" * {PANE_MS}) AS pane_ms FROM {self._table}"
            f" WHERE occurred_at >= fromUnixTimestamp64Milli({from_ms:d}, 'UTC')"
            f" AND occurred_at < fromUnixTimestamp64Milli({to_ms:d}, 'UTC')"
            f" AND ({_offsets(above, below)})"
        )
        return [int(each) for each in found["pane_ms"].to_pylist()]

    def _query(self, sql: str) -> pa.Table:
        try:
            return self._client.query_arrow(
                sql, settings={"max_execution_time": self._answer_seconds_max}
            )
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error


def _offsets(above: Mapping[int, int], below: Mapping[int, int]) -> str:
    ranges = " OR ".join(
        f"(kafka_partition = {partition:d} AND kafka_offset >= {above.get(partition, 0):d}"
        f" AND kafka_offset < {offset:d})"
        for partition, offset in sorted(below.items())
    )
    return ranges or "false"


def _sql(dimensions: Sequence[str], table: str, length_ms: int, tokens_cap: int, where: str) -> str:
    """Return the query; the inner one reads each row once, and has a row per register of a sketch."""
    capped = f"least(ifNull(e.tokens_prompt, 0) + ifNull(e.tokens_completion, 0), {tokens_cap:d})"
    sums = {
        "requests": "count()",
        "tokens_prompt": "sum(ifNull(e.tokens_prompt, 0))",
        "tokens_completion": "sum(ifNull(e.tokens_completion, 0))",
        "tokens_reasoning": "sum(ifNull(e.tokens_reasoning, 0))",
        "tokens_cached": "sum(ifNull(e.tokens_cached, 0))",
        "cost_nanousd": "sum(ifNull(e.cost_nanousd, 0))",
        "tool_call_requests": "countIf(e.tool_use = 'called')",
        "errors": "countIf(e.status != 'ok')",
        "tokens_capped": f"sum({capped})",
        "tokens_capped_squared": f"sum(toUInt64({capped}) * {capped})",
    }
    inner = ", ".join(f"{sums[name]} AS {name}" for name in MEASURES)
    outer = ", ".join(f"toInt64(sum(p.{name})) AS {name}" for name in MEASURES)
    # As in streams.panes: 10 bits are the register, the first set of 53 others gives the rank.
    bits = "intHash64(assumeNotNull(e.user_hash))"
    rest = f"bitShiftRight({bits}, 11)"
    rank = f"if({rest} = 0, 54, 53 - toUInt8(floor(log2({rest}))))"
    pairs = ", ".join(f"('{dimension}', {_value(dimension)})" for dimension in dimensions)
    return (
        f"SELECT dimension, pane_ms, value, {outer}, groupArrayIf("
        f"toUInt16(p.register * {1 << RANK_BITS} + p.rank), p.register != {NO_USER}) AS users"
        " FROM (SELECT tupleElement(pair, 1) AS dimension, tupleElement(pair, 2) AS value,"
        f" toInt64(intDiv(toUnixTimestamp64Milli(e.occurred_at), {length_ms:d})"
        f" * {length_ms:d}) AS pane_ms,"
        f" if(isNull(e.user_hash), {NO_USER}, bitAnd({bits}, {REGISTERS - 1})) AS register,"
        f" max(if(isNull(e.user_hash), 0, {rank})) AS rank, {inner}"
        f" FROM {table} AS e ARRAY JOIN [{pairs}] AS pair WHERE {where}"
        " GROUP BY dimension, pane_ms, value, register"
        ") AS p GROUP BY dimension, pane_ms, value"
    )


def _value(dimension: str) -> str:
    """Return the value of a dimension as SQL; a pair with an unknown part is unknown."""
    names = [f"e.{name}" for name in DIMENSIONS[dimension]]
    if len(names) == 1:
        return f"CAST({names[0]}, 'String')"
    unknown = " OR ".join(f"{name} = '{UNKNOWN}'" for name in names)
    joined = f", '{PAIR_SEPARATOR}', ".join(names)
    return f"if({unknown}, '{UNKNOWN}', concat({joined}))"


def in_form(panes: pa.Table) -> pa.Table:
    """Return what ClickHouse answered in the form of `PANES`."""
    columns = {name: panes[name] for name in panes.column_names}
    for name in ("dimension", "value"):
        columns[name] = columns[name].cast(pa.utf8()).dictionary_encode()
    made = pa.table({field.name: columns[field.name].cast(field.type) for field in PANES})
    return made.unify_dictionaries().combine_chunks()
