"""How far an owner of rolling windows has come, by partition of the usage topic."""

from collections.abc import Mapping

import pyarrow as pa

from sinks.clickhouse import CAUGHT, sorted_error
from sinks.share_windows import Client

WINDOWS_TABLE = "share_window_progress"
"""Every window that was given out holds what landed at lower offsets."""
PANES_TABLE = "share_pane_progress"
"""The stored panes hold it."""


class ShareProgress:
    """Writes and reads offsets. One thread at a time.

    Every method raises SinkUnavailableError when the same call may succeed later, and FatalError
    for what needs a person.
    """

    def __init__(self, client: Client, database: str, table: str) -> None:
        self._client = client
        self._database = database
        self._table = table

    def write(self, panes_partition: int, offsets: Mapping[int, int], now_ms: int) -> None:
        """Note offsets, of which the latest count."""
        row = {
            "panes_partition": pa.array([panes_partition], pa.uint16()),
            "offsets": pa.array([list(offsets.items())], pa.map_(pa.uint16(), pa.uint64())),
            "recorded_at": pa.array([now_ms], pa.timestamp("ms", tz="UTC")),
        }
        try:
            self._client.insert_arrow(
                self._table, pa.table(row), self._database, {"async_insert": 0}
            )
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error

    def read(self, panes_partition: int) -> dict[int, int] | None:
        """Return what was noted last, if anything."""
        try:
            found = self._client.query_arrow(
                f"SELECT argMax(offsets, recorded_at) AS offsets FROM {self._database}.{self._table}"
                f" WHERE panes_partition = {panes_partition:d} HAVING count() > 0"
            )
        except CAUGHT as error:
            raise sorted_error(error) from error
        if not found.num_rows:
            return None
        return {int(p): int(offset) for p, offset in found["offsets"][0].as_py()}
