"""What a worker asks of the events that it or an earlier owner of a partition has stored."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pyarrow as pa
from clickhouse_connect.driver.binding import format_query_value

from sinks.clickhouse import CAUGHT, sorted_error
from sinks.usage_events import TABLE, TEXT, arrow_schema

LITERAL_CHARS_MAX = 100_000
"""Ids named in one query; ClickHouse parses at most 262,144 bytes (``max_query_size``)."""
INSERTS_SECONDS_BACK = 3600
"""An insert is found by an event of its last hour: reading more costs more than it finds."""

_IDS_SCHEMA = pa.schema(
    [("event_id", pa.string()), ("source", pa.string()), ("second", pa.uint32())]
)


class QueryClient(Protocol):
    """What is needed of clickhouse-connect's client."""

    def query_arrow(
        self,
        query: str,
        parameters: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> pa.Table: ...


class StoredEvents:
    """Reads ``usage_events``. May be used by several threads.

    Every method raises SinkUnavailableError when the same call may succeed later, and FatalError
    for what needs a person.
    """

    def __init__(self, client: QueryClient, database: str) -> None:
        self._client = client
        self._table = f"{database}.{TABLE}"

    def newest_second(self, partition: int) -> int | None:
        """Return the newest event time of a Kafka partition, seconds since the epoch.

        Read in the order of the table's key, backwards: a few granules, whatever is stored.
        """
        found = self._query(
            f"SELECT toUnixTimestamp(occurred_at) AS second FROM {self._table}"
            f" WHERE kafka_partition = {partition:d}"
            " ORDER BY toStartOfSecond(occurred_at) DESC LIMIT 1"
        )
        return int(found["second"][0].as_py()) if found.num_rows else None

    def ids(
        self,
        partition: int,
        *,
        before_offset: int,
        ranges: Sequence[tuple[int, int]],
        event_ids: Sequence[str] | None = None,
        newest_max: int | None = None,
    ) -> pa.Table:
        """Return ``event_id``, ``source`` (text) and ``second`` (uint32) of stored events.

        Args:
            partition: Kafka partition.
            before_offset: Only events at lower offsets of it.
            ranges: Only event times in these, seconds since the epoch, ``[from, to)`` each.
            event_ids: Only these ids, or all.
            newest_max: At most so many, newest event times first, or all.
        """
        times = " OR ".join(
            f"(occurred_at >= fromUnixTimestamp64Milli({begin * 1000:d}, 'UTC')"
            f" AND occurred_at < fromUnixTimestamp64Milli({end * 1000:d}, 'UTC'))"
            for begin, end in ranges
        )
        sql = (
            "SELECT event_id, toString(source) AS source, toUnixTimestamp(occurred_at) AS second"
            f" FROM {self._table} WHERE kafka_partition = {partition:d}"
            f" AND kafka_offset < {before_offset:d} AND ({times})"
        )
        if newest_max is not None:
            sql += f" ORDER BY toStartOfSecond(occurred_at) DESC LIMIT {newest_max:d}"
        if event_ids is None:
            return self._query(sql).cast(_IDS_SCHEMA)
        found = [
            self._query(f"{sql} AND event_id IN ({literals})").cast(_IDS_SCHEMA)
            for literals in _literals(event_ids)
        ]
        return pa.concat_tables(found) if found else _IDS_SCHEMA.empty_table()

    def rows(
        self, partition: int, first_offset: int, next_offset: int, times_ms: tuple[int, int] | None
    ) -> pa.Table:
        """Return the stored rows of a range of offsets, in the form of an insert.

        Args:
            partition: Kafka partition.
            first_offset: Where the range begins.
            next_offset: Where the next one begins.
            times_ms: Oldest and newest event time of its records, epoch milliseconds. ``None`` when
                they are not known: then the whole table is read.
        """
        names = ", ".join(arrow_schema().names)
        sql = (
            f"SELECT {names} FROM {self._table} WHERE kafka_partition = {partition:d}"
            f" AND kafka_offset >= {first_offset:d} AND kafka_offset < {next_offset:d}"
        )
        if times_ms is not None:
            oldest_ms, newest_ms = times_ms
            sql += (
                f" AND occurred_at >= fromUnixTimestamp64Milli({oldest_ms:d}, 'UTC')"
                f" AND occurred_at <= fromUnixTimestamp64Milli({newest_ms:d}, 'UTC')"
            )
        return _as_insert(self._query(sql))

    def inserts_since(self, ingested_at_ms: int) -> int:
        """Return how many inserts came after one, of those that hold an event of its last hour."""
        oldest_ms = ingested_at_ms - INSERTS_SECONDS_BACK * 1000
        found = self._query(
            "SELECT uniqExact(kafka_partition, ingested_at, toYYYYMM(occurred_at)) AS inserts"
            f" FROM {self._table}"
            f" WHERE ingested_at > fromUnixTimestamp64Milli({ingested_at_ms:d}, 'UTC')"
            f" AND occurred_at >= fromUnixTimestamp64Milli({oldest_ms:d}, 'UTC')"
        )
        return int(found["inserts"][0].as_py())

    def _query(self, sql: str) -> pa.Table:
        try:
            return self._client.query_arrow(sql)
        except CAUGHT as error:
            raise sorted_error(error, detail=False) from error


def _literals(event_ids: Sequence[str]) -> Iterator[str]:
    """Yield the ids as SQL, comma-separated, in pieces that one query can hold."""
    piece: list[str] = []
    chars = 0
    for event_id in event_ids:
        literal = str(format_query_value(event_id))
        if piece and chars + len(literal) > LITERAL_CHARS_MAX:
            yield ",".join(piece)
            piece, chars = [], 0
        piece.append(literal)
        chars += len(literal.encode()) + 1
    if piece:
        yield ",".join(piece)


def _as_insert(rows: pa.Table) -> pa.Table:
    """Return what ClickHouse answered in the types of an insert."""
    columns = []
    for field in arrow_schema():
        column = rows[field.name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
        if field.type == TEXT:
            column = column.cast(pa.string()).dictionary_encode()
        columns.append(column.cast(field.type))
    return pa.table(columns, names=arrow_schema().names)
