"""Usage events into ClickHouse: the form of a block of rows, and the writer.

Guarantee: exactly once from the caller's batch to ``usage_events`` and every rollup, on condition
that a repeat carries the same rows under the same token, within the last 10,000 inserts (the
deduplication window of the tables). A token that returns with other rows is dropped unseen.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from sinks.clickhouse import CAUGHT, sorted_error

TABLE = "usage_events"

# Text goes dictionary-encoded: half the cost of plain text in the engine (measured 1.7 against
# 3.2 us per row), and it lands in LowCardinality columns without a lookup per row.
TEXT = pa.dictionary(pa.int32(), pa.utf8())
INSTANT = pa.timestamp("ms", tz="UTC")

# Column, type, may be null. Order and names are those of the table.
_COLUMNS: tuple[tuple[str, pa.DataType, bool], ...] = (
    ("event_id", pa.utf8(), False),
    ("occurred_at", INSTANT, False),
    ("ingested_at", INSTANT, False),
    ("kafka_partition", pa.uint16(), False),
    ("kafka_offset", pa.uint64(), False),
    ("source", TEXT, False),
    ("operation", TEXT, False),
    ("request_id", pa.utf8(), False),
    ("attempt", pa.uint8(), False),
    ("model_raw", TEXT, False),
    ("model", TEXT, False),
    ("model_requested", TEXT, False),
    ("vendor", TEXT, False),
    ("vendor_country", TEXT, False),
    ("license", TEXT, False),
    ("open_weights", TEXT, False),
    ("origin", TEXT, False),
    ("size_class", TEXT, False),
    ("reasoning", TEXT, False),
    ("total_params_b", pa.float32(), True),
    ("active_params_b", pa.float32(), True),
    ("provider", TEXT, False),
    ("tokens_prompt", pa.uint32(), True),
    ("tokens_completion", pa.uint32(), True),
    ("tokens_reasoning", pa.uint32(), True),
    ("tokens_cached", pa.uint32(), True),
    ("tokens_cache_write", pa.uint32(), True),
    ("cost_nanousd", pa.uint64(), True),
    ("cost_source", TEXT, False),
    ("latency_ms", pa.uint32(), True),
    ("ttft_ms", pa.uint32(), True),
    ("finish_reason", TEXT, False),
    ("finish_reason_native", TEXT, False),
    ("tool_calls", pa.uint16(), True),
    ("tool_use", TEXT, False),
    ("streamed", pa.bool_(), True),
    ("cancelled", pa.bool_(), True),
    ("is_byok", pa.bool_(), True),
    ("cache_hit", pa.bool_(), True),
    ("status", TEXT, False),
    ("status_code", pa.uint16(), True),
    ("error_type", TEXT, False),
    ("app_id", TEXT, False),
    ("user_hash", pa.uint64(), True),
    ("session_hash", pa.uint64(), True),
    ("region", TEXT, False),
    ("caller_country", TEXT, False),
    ("service_tier", TEXT, False),
    ("category", TEXT, False),
    ("tags", pa.utf8(), False),
    ("quality", TEXT, False),
)
_SCHEMA = pa.schema([pa.field(name, kind, nullable) for name, kind, nullable in _COLUMNS])

# What a repeat needs to be the same insert again: one request is one block is one part per table.
INSERT_SETTINGS: Mapping[str, Any] = {
    "async_insert": 0,
    "insert_deduplicate": 1,
    "deduplicate_insert": "enable",  # Rules over the one before since 26.2.
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    # No squashing or splitting by size: blocks end where the request ends.
    "max_insert_block_size": 1_048_576,
    "min_insert_block_size_rows": 1_048_576,
    "min_insert_block_size_bytes": 0,
    "max_insert_threads": 1,
    # A null in a column that has none is an error, not the column's default.
    "input_format_null_as_default": 0,
    # The views have grouped their block already; merging it again while inserting finds nothing.
    "optimize_on_insert": 0,
}
ROWS_MAX = 1_000_000
DUPLICATES_TABLE = "usage_duplicates"


def arrow_schema() -> pa.Schema:
    """Return the columns of ``usage_events`` in the table's order, as an insert sends them.

    Times are UTC milliseconds. Text of few values is dictionary-encoded ``dictionary<int32, utf8>``,
    free text is ``utf8``. A field that may be null means unknown.
    """
    return _SCHEMA


class InsertClient(Protocol):
    """What the writer needs of clickhouse-connect's client."""

    def raw_insert(
        self,
        table: str,
        column_names: Sequence[str],
        insert_block: Any,
        settings: dict[str, Any],
        fmt: str,
    ) -> Any: ...


class UsageEventWriter:
    """Writes blocks of usage events."""

    def __init__(self, client: InsertClient, database: str) -> None:
        self._client = client
        self._database = database

    def write(self, rows: pa.Table, token: str) -> None:
        """Insert ``rows`` as one block under ``token``; a repeat of the token adds nothing.

        Args:
            rows: At most 1,000,000 rows in ``arrow_schema()`` order, all of one calendar month of
                ``occurred_at``: a block of two months would be two parts, of which one could land
                without the other.
            token: ``topic:partition:first-last:YYYYMM``. The same token must always come with the
                same rows.

        Raises:
            SinkUnavailableError: Not now; the rows may or may not have landed. Repeat with the
                same rows and token.
            RejectedBatchError: The server refuses the rows themselves.
            FatalError: Anything else: the table, the user or the server need a person.
        """
        assert rows.num_rows <= ROWS_MAX, f"{rows.num_rows} rows in one insert"
        # The server converts other types as it can: text that is no number becomes null, unseen.
        assert rows.schema.names == _SCHEMA.names, "columns are not those of arrow_schema()"
        assert rows.schema.types == _SCHEMA.types, "types are not those of arrow_schema()"
        if rows.num_rows == 0:
            return
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        try:
            insert_block(self._client, self._database, TABLE, rows, settings)
        except CAUGHT as error:
            # Without the server's text: it may quote values of rows, and this message is logged.
            raise sorted_error(error, detail=False) from error

    def write_duplicates(self, rows: pa.Table, token: str) -> None:
        """Insert records that were sent again into ``usage_duplicates``; else as ``write``.

        Args:
            rows: The columns of that table, all of one calendar month.
            token: As that of the range's rows.

        Raises:
            SinkUnavailableError, FatalError: As ``write``.
        """
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": token}
        try:
            insert_block(self._client, self._database, DUPLICATES_TABLE, rows, settings)
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error


def insert_block(
    client: InsertClient, database: str, table: str, rows: pa.Table, settings: Mapping[str, Any]
) -> None:
    """Insert rows as one block.

    The driver's ``insert_arrow`` does the same in a buffer that doubles as it grows, which takes two
    to four times the memory of what is sent.
    """
    block = _arrow_file(_one_chunk(rows))
    name = f"`{database}`.`{table}`"
    client.raw_insert(name, rows.schema.names, block, dict(settings), "Arrow")


def _arrow_file(rows: pa.Table) -> pa.Buffer:
    counted = pa.MockOutputStream()
    with pa.ipc.new_file(counted, rows.schema) as writer:
        writer.write(rows)
    buffer = pa.allocate_buffer(counted.size())
    with pa.ipc.new_file(pa.FixedSizeBufferWriter(buffer), rows.schema) as writer:
        writer.write(rows)
    return buffer


def _one_chunk(rows: pa.Table) -> pa.Table:
    """Return the rows as one record batch, hence one block; no copy when they are one already."""
    if all(column.num_chunks == 1 for column in rows.columns):
        return rows
    return rows.unify_dictionaries().combine_chunks()
