"""Blocks that ClickHouse takes for stored and has not: found after a repeat, and made good.

ClickHouse notes the token of a block in the deduplication log of a table, and only then renames the
block's part into place. Killed in between it remembers a token without a part, and drops every repeat
under that token (seen once in 600 kills; in the source: ``MergeTreeSink::commitPart``). Views have
tokens of their own and take the repeat, so only the table itself lacks the rows: they are put there as
a part that comes from another table, which no view sees. Replicated tables keep tokens and parts
together in Keeper and can't lose one of them.
"""

from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import structlog
from prometheus_client import Counter

from schemas.errors import SinkUnavailableError
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.stored_events import QueryClient
from sinks.usage_events import (
    DUPLICATES_TABLE,
    INSERT_SETTINGS,
    TABLE,
    InsertClient,
    insert_block,
)

log = structlog.get_logger()

RESTORED = Counter(
    "tokentide_rows_restored", "Rows stored once more, because ClickHouse had lost their block."
)

AGAIN = ":again"


class Client(InsertClient, QueryClient, Protocol):
    """What is needed of clickhouse-connect's client."""

    def command(self, cmd: str) -> Any: ...


class LostBlocks:
    """Makes sure of blocks whose insert was repeated. May be used by several threads."""

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self._database = database

    def make_good(self, rows: pa.Table, token: str) -> int:
        """Store those rows of a block that ``usage_events`` has not; return how many.

        Args:
            rows: The block, after an insert of it under ``token`` has been acknowledged.
            token: See `UsageEventWriter.write`.

        Raises:
            SinkUnavailableError: Not now: repeat it.
            FatalError: A person is needed.
        """
        try:
            missing = self._missing(TABLE, rows)
            if missing.num_rows:
                self._restore(missing)
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error
        return self._told(TABLE, missing, token)

    def make_duplicates_good(self, rows: pa.Table, token: str) -> int:
        """Do the same for ``usage_duplicates``, which no view reads: under another token."""
        try:
            missing = self._missing(DUPLICATES_TABLE, rows)
            if missing.num_rows:
                settings = {**INSERT_SETTINGS, "insert_deduplication_token": token + AGAIN}
                insert_block(self._client, self._database, DUPLICATES_TABLE, rows, settings)
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error
        return self._told(DUPLICATES_TABLE, missing, token)

    def _told(self, table: str, missing: pa.Table, token: str) -> int:
        if missing.num_rows:
            RESTORED.inc(missing.num_rows)
            log.warning("rows.restored", table=table, rows=missing.num_rows, token=token)
        return int(missing.num_rows)

    def _missing(self, table: str, rows: pa.Table) -> pa.Table:
        offsets = rows["kafka_offset"].to_numpy()
        times_ms = rows["occurred_at"].cast(pa.int64()).to_numpy()
        found = self._client.query_arrow(
            f"SELECT kafka_offset FROM {self._database}.{table}"
            f" WHERE kafka_partition = {rows['kafka_partition'][0].as_py():d}"
            f" AND kafka_offset >= {offsets.min():d} AND kafka_offset <= {offsets.max():d}"
            f" AND occurred_at >= fromUnixTimestamp64Milli({times_ms.min():d}, 'UTC')"
            f" AND occurred_at <= fromUnixTimestamp64Milli({times_ms.max():d}, 'UTC')"
        )
        return rows.filter(pa.array(~np.isin(offsets, found["kafka_offset"].to_numpy())))

    def _restore(self, rows: pa.Table) -> None:
        """Put rows of one partition and month into ``usage_events``, past its views.

        Moving takes the part out of the other table: who comes second moves nothing.

        Raises:
            SinkUnavailableError: Somebody else was at it: look again.
        """
        month = rows["occurred_at"][0].as_py().strftime("%Y%m")
        aside = f"{self._database}.{TABLE}_restored_{rows['kafka_partition'][0].as_py():d}"
        self._client.command(f"DROP TABLE IF EXISTS {aside} SYNC")
        self._client.command(f"CREATE TABLE {aside} AS {self._database}.{TABLE}")
        name = aside.partition(".")[2]
        insert_block(self._client, self._database, name, rows, INSERT_SETTINGS)
        self._client.command(
            f"ALTER TABLE {aside} MOVE PARTITION ID '{month}' TO TABLE {self._database}.{TABLE}"
        )
        self._client.command(f"DROP TABLE IF EXISTS {aside} SYNC")
        if self._missing(TABLE, rows).num_rows:
            raise SinkUnavailableError("clickhouse: a block that was restored is not there")
