"""Closed windows of shares as they were first given out: what a detector is rebuilt from."""

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from sinks.clickhouse import CAUGHT, sorted_error

TABLE = "share_window_revisions"
COLUMNS = (
    "dimension",
    "window_seconds",
    "is_complete",
    "requests_total",
    "tokens_total",
    "cost_nanousd_total",
    "values",
    "requests",
    "tokens_prompt",
    "tokens_completion",
    "cost_nanousd",
    "errors",
    "tokens_capped",
    "tokens_capped_squared",
    "users",
)

_PLAIN = {
    "dimension": "toString(dimension) AS dimension",
    "values": "CAST(values, 'Array(String)') AS values",
}
"""Arrow has low-cardinality text as dictionaries, which differ from block to block."""


class QueryClient(Protocol):
    """What is needed of clickhouse-connect's client."""

    def query_arrow(
        self,
        query: str,
        parameters: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> pa.Table: ...


class ShareBins:
    """Reads ``share_window_revisions``. May be used by several threads."""

    def __init__(self, client: QueryClient, database: str) -> None:
        self._client = client
        self._table = f"{database}.{TABLE}"

    def read(
        self, dimensions: Sequence[str], window_seconds: int, from_ms: int, to_ms: int
    ) -> pa.Table:
        """Return windows in the order of their ends, the oldest revision of each that is still there.

        Args:
            dimensions: Dimensions to read.
            window_seconds: Length of the windows.
            from_ms: Windows that end after it, epoch milliseconds.
            to_ms: Windows that end at it or before.

        Returns:
            `COLUMNS` and ``window_end_ms``; measures are lists with an entry per value.

        Raises:
            SinkUnavailableError: Not now.
            FatalError: Anything else.
        """
        names = ", ".join(_PLAIN.get(name, name) for name in COLUMNS)
        sql = (
            f"SELECT {names}, toInt64(toUnixTimestamp(window_end)) * 1000 AS window_end_ms,"
            f" revision FROM {self._table}"
            " WHERE dimension IN {dimensions:Array(String)}"
            " AND window_seconds = {window_seconds:UInt32}"
            " AND window_end > fromUnixTimestamp({from_s:UInt32})"
            " AND window_end <= fromUnixTimestamp({to_s:UInt32})"
            " ORDER BY window_end, dimension, revision LIMIT 1 BY window_end, dimension"
        )
        parameters = {
            "dimensions": list(dimensions),
            "window_seconds": window_seconds,
            "from_s": from_ms // 1000,
            "to_s": to_ms // 1000,
        }
        try:
            return self._client.query_arrow(sql, parameters=parameters)
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error
