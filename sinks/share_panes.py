"""Panes in ClickHouse: written as they change, read by a new owner of windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from schemas.panes import MEASURES, PANES
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.pane_counts import in_form
from sinks.share_windows import Client

TABLES = {
    10_000: ("share_panes_10s", "start"),
    300_000: ("share_panes_5m", "start"),
    3_600_000: ("share_panes_1h", "hour"),
}
"""Length of a pane -> its table, and the column of its start."""
IS_STORED = ""
"""In place of a value: the pane is stored, whether it has requests or not."""


@dataclass(frozen=True)
class StoredPanes:
    """Panes that were stored.

    Attributes:
        panes: In the form of `PANES`.
        positions: Of each dimension and start of a pane that is stored, epoch milliseconds: the
            highest position of its rows, see `SharePanes.write`.
    """

    panes: pa.Table
    positions: dict[tuple[str, int], int]


class SharePanes:
    """Writes and reads panes.

    Every method raises SinkUnavailableError when the same call may succeed later, and FatalError
    for what needs a person.
    """

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self._database = database

    def write(
        self,
        length_ms: int,
        places: Sequence[tuple[str, int]],
        panes: pa.Table,
        position: int,
        now_ms: int,
    ) -> None:
        """Store panes, each with all its values as they are now.

        Args:
            length_ms: Of `TABLES`.
            places: Dimension and start, epoch milliseconds.
            panes: What they have, in the form of `PANES`.
            position: Sum of the offsets below which everything was counted: never goes back.
            now_ms: Epoch milliseconds; of two writings the later counts.
        """
        if not places:
            return
        table, start = TABLES[length_ms]
        marks = pa.table(
            {
                "dimension": [dimension for dimension, _ in places],
                "pane_ms": [start_ms for _, start_ms in places],
                "value": [IS_STORED] * len(places),
                **{name: [0] * len(places) for name in MEASURES},
                "users": pa.array([[]] * len(places), pa.list_(pa.uint16())),
            }
        )
        rows = pa.concat_tables([_plain(panes), _plain(marks)])
        count = rows.num_rows
        columns = {
            "dimension": rows["dimension"],
            start: pa.array((rows["pane_ms"].to_numpy() // 1000).astype(np.uint32)),
            "value": rows["value"],
            **{name: rows[name].cast(pa.uint64()) for name in MEASURES},
            "users": rows["users"],
            "position": pa.array([position] * count, pa.uint64()),
            "recorded_at": pa.array([now_ms] * count, pa.timestamp("ms", tz="UTC")),
        }
        try:
            self._client.insert_arrow(
                table, pa.table(columns).combine_chunks(), self._database, {"async_insert": 0}
            )
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error

    def read(
        self, length_ms: int, dimensions: Sequence[str], from_ms: int, to_ms: int
    ) -> StoredPanes:
        """Return the stored panes of a length that start in ``[from_ms, to_ms)``."""
        table, start = TABLES[length_ms]
        names = ", ".join(f"'{dimension}'" for dimension in dimensions)
        sums = ", ".join(f"toInt64({name}) AS {name}" for name in MEASURES)
        sql = (
            f"SELECT toString(dimension) AS dimension, toInt64(toUnixTimestamp({start})) * 1000"
            f" AS pane_ms, value, {sums}, users, position FROM {self._database}.{table}"
            f" WHERE dimension IN ({names}) AND {start} >= fromUnixTimestamp({from_ms // 1000:d})"
            f" AND {start} < fromUnixTimestamp({to_ms // 1000:d})"
            f" ORDER BY recorded_at DESC LIMIT 1 BY dimension, {start}, value"
        )
        try:
            found = self._client.query_arrow(sql)
        except CAUGHT as error:
            raise sorted_error(error) from error
        positions: dict[tuple[str, int], int] = {}
        marks = []
        for row in found.select(["dimension", "pane_ms", "value", "position"]).to_pylist():
            place = row["dimension"], row["pane_ms"]
            marks.append(row["value"] == IS_STORED)
            positions[place] = max(positions.get(place, 0), row["position"])
        is_value = pa.array([not mark for mark in marks], pa.bool_())
        panes = found.drop_columns(["position"]).filter(is_value)
        return StoredPanes(in_form(panes), positions)


def _plain(panes: pa.Table) -> pa.Table:
    """Return panes with text instead of codes."""
    columns = {field.name: panes[field.name] for field in PANES}
    for name in ("dimension", "value"):
        columns[name] = columns[name].cast(pa.utf8())
    return pa.table(columns)
