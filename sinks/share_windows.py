"""Rolling windows into ClickHouse, and what is known there of those that were given out.

Guarantee: at least once. A window that is written again replaces itself: rows are ordered by revision,
and of one revision by the time at which it was given out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from schemas.panes import MEASURES
from sinks.clickhouse import CAUGHT, sorted_error

TABLE = "share_window_revisions"
SHARED = ("requests", "tokens", "cost")


class Client(Protocol):
    """What is needed of clickhouse-connect's client."""

    def insert_arrow(
        self,
        table: str,
        arrow_table: Any,
        database: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Any: ...

    def query_arrow(
        self,
        query: str,
        parameters: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> pa.Table: ...


@dataclass(frozen=True)
class Given:
    """A window that was given out, as its newest revision has it.

    Attributes:
        shares: Of requests, tokens and cost by value, billionths.
    """

    dimension: str
    window_seconds: int
    window_end_ms: int
    revision: int
    shares: Mapping[str, tuple[int, int, int]]


class ShareWindows:
    """Writes and reads windows. One thread at a time.

    Every method raises SinkUnavailableError when the same call may succeed later, and FatalError
    for what needs a person.
    """

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self._database = database
        self._table = f"{database}.{TABLE}"

    def write(self, windows: Sequence[Mapping[str, Any]]) -> None:
        """Insert windows.

        Args:
            windows: Records of ``llm-shares-v1`` (`streams.share_window`), with ``given_ms``.
        """
        if windows:
            try:
                self._client.insert_arrow(
                    TABLE, _as_rows(windows), self._database, {"async_insert": 0}
                )
            except CAUGHT as error:
                raise sorted_error(error, detail=False) from error

    def last_ends_ms(self, dimensions: Sequence[str]) -> dict[tuple[str, int], int]:
        """Return the end of the last window by dimension and seconds, of those given out."""
        found = self._query(
            "SELECT toString(dimension) AS dimension, window_seconds,"
            f" toUnixTimestamp(max(window_end)) AS end FROM {self._table}"
            f" WHERE dimension IN ({_texts(dimensions)}) GROUP BY dimension, window_seconds"
        )
        return {
            (row["dimension"], row["window_seconds"]): row["end"] * 1000
            for row in found.to_pylist()
        }

    def given(
        self, dimensions: Sequence[str], since_ms: Mapping[int, int], *, revised_since_ms: int
    ) -> list[Given]:
        """Return the windows that ended since, and those of which there is a revision above 0.

        Args:
            dimensions: Of these.
            since_ms: By seconds of the window: those that ended at it or later, epoch milliseconds.
            revised_since_ms: And those with a revision that ended at it or later.
        """
        ends = " OR ".join(
            f"(window_seconds = {seconds:d} AND window_end >= fromUnixTimestamp({ms // 1000:d}))"
            for seconds, ms in since_ms.items()
        )
        revised = (
            f"(revision > 0 AND window_end >= fromUnixTimestamp({revised_since_ms // 1000:d}))"
        )
        shares = ", ".join(f"share_{name}_billionths" for name in SHARED)
        found = self._query(
            "SELECT dimension, window_seconds, end, tupleElement(newest, 1) AS revision,"
            " CAST(tupleElement(newest, 2), 'Array(String)') AS values,"
            + ", ".join(
                f" tupleElement(newest, {at + 3}) AS {name}" for at, name in enumerate(SHARED)
            )
            + " FROM (SELECT toString(dimension) AS dimension, window_seconds,"
            f" toUnixTimestamp(window_end) AS end, argMax((revision, values, {shares}), version)"
            f" AS newest FROM {self._table} WHERE dimension IN ({_texts(dimensions)})"
            f" AND ({ends} OR {revised}) GROUP BY dimension, window_seconds, window_end)"
        )
        return [
            Given(
                row["dimension"],
                row["window_seconds"],
                row["end"] * 1000,
                row["revision"],
                dict(
                    zip(
                        row["values"],
                        zip(*(row[name] for name in SHARED), strict=True),
                        strict=True,
                    )
                ),
            )
            for row in found.to_pylist()
        ]

    def _query(self, sql: str) -> pa.Table:
        try:
            return self._client.query_arrow(sql)
        except CAUGHT as error:
            raise sorted_error(error) from error


def _texts(values: Sequence[str]) -> str:
    """Return names of ours as SQL."""
    return ", ".join(f"'{value}'" for value in values)


_INSTANT = pa.timestamp("ms", tz="UTC")
_COUNTS = pa.list_(pa.uint64())
_BILLIONTHS = pa.list_(pa.uint32())
_SCHEMA = pa.schema(
    [
        ("dimension", pa.utf8()),
        ("window_seconds", pa.uint32()),
        ("window_end", pa.uint32()),
        ("revision", pa.uint32()),
        ("is_complete", pa.bool_()),
        ("watermark", _INSTANT),
        ("given_at", _INSTANT),
        ("requests_total", pa.uint64()),
        ("tokens_total", pa.uint64()),
        ("cost_nanousd_total", pa.uint64()),
        ("values", pa.list_(pa.utf8())),
        *((name, _COUNTS) for name in (*MEASURES, "users")),
        *((f"share_{name}_billionths", _BILLIONTHS) for name in SHARED),
        *((f"previous_{name}_billionths", _BILLIONTHS) for name in SHARED),
    ]
)
_RENAMED = {"window_end": "window_end_ms", "watermark": "watermark_ms", "given_at": "given_ms"}


def _as_rows(windows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {
        field.name: [window[_RENAMED.get(field.name, field.name)] for window in windows]
        for field in _SCHEMA
    }
    columns["window_end"] = [end_ms // 1000 for end_ms in columns["window_end"]]
    return pa.table(columns, schema=_SCHEMA)
