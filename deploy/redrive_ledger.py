"""The ledger of redrives in ClickHouse: what is about to be sent again, and what was.

A record is known by where it stood (`Origin`): two dead letters of one record are one redrive.
Rows are only added, each set of them under a deduplication token of its own.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.dead_letters_reader import DeadLetter, Origin, Position
from schemas.errors import ConfigurationError, FatalError, RejectedBatchError, RetryableError
from sinks.clickhouse import CAUGHT, ClickHouseAddress, connect, sorted_error

TABLE = "dead_letter_redrives"
INTENDED, SENT, NOT_SENT = "intended", "sent", "not_sent"
UNKNOWN_TABLE = 60
_SCHEMA = pa.schema(
    [
        ("recorded_at", pa.timestamp("ms", tz="UTC")),
        ("attempt", pa.utf8()),
        ("state", pa.utf8()),
        ("dead_letter_topic", pa.utf8()),
        ("dead_letter_partition", pa.uint16()),
        ("dead_letter_offset", pa.uint64()),
        ("origin_topic", pa.utf8()),
        ("origin_partition", pa.uint16()),
        ("origin_offset", pa.uint64()),
        ("origin_time", pa.timestamp("ms", tz="UTC")),
        ("reason", pa.utf8()),
        ("field", pa.utf8()),
        ("target_end_offset", pa.uint64()),
        ("target_offset", pa.uint64()),
    ]
)
_ATTEMPTS = f"""
SELECT
    attempt,
    any(dead_letter_partition),
    any(dead_letter_offset),
    origin_topic,
    origin_partition,
    origin_offset,
    toUnixTimestamp64Milli(origin_time),
    any(reason),
    any(field),
    any(target_end_offset),
    max(target_offset) AS sent_offset,
    countIf(state = '{NOT_SENT}') AS is_not_sent,
    toUnixTimestamp64Milli(max(recorded_at)) AS last_ms
FROM {{database:Identifier}}.{TABLE}
WHERE {{where}}
GROUP BY attempt, origin_topic, origin_partition, origin_offset, origin_time
{{having}}
ORDER BY last_ms
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of one attempt.

    Attributes:
        letter: Position of the dead letter.
        target_end_offset: End offset of the target partition before sending.
        target_offset: Where the record was sent to; ``None`` while that is not known.
        is_settled: Sent or not sent; else the attempt was interrupted and is in doubt.
        recorded_at_ms: When the last of it was written, epoch milliseconds.
    """

    attempt: str
    letter: Position
    origin: Origin
    reason: str
    field: str
    target_end_offset: int
    target_offset: int | None
    is_settled: bool
    recorded_at_ms: int

    @property
    def target(self) -> Position | None:
        """Where the record stands now: the partition is that of its origin."""
        if self.target_offset is None:
            return None
        return Position(self.origin.position.partition, self.target_offset)


class Ledger:
    """The ledger of one dead-letter topic, in one database.

    Every method raises SinkUnavailableError when ClickHouse does not answer, ConfigurationError
    when the table is missing and FatalError for what needs a person.
    """

    def __init__(self, client: HttpClient, database: str, dead_letter_topic: str) -> None:
        self._client = client
        self._database = database
        self._topic = dead_letter_topic

    def intend(self, attempt: str, letters: Sequence[DeadLetter], end_offset: int) -> list[Entry]:
        """Write that ``letters`` are about to be sent, and return the entries."""
        now_ms = _now_ms()
        entries = [
            Entry(
                attempt,
                each.position,
                each.origin,
                each.reason,
                each.field,
                end_offset,
                None,
                False,
                now_ms,
            )
            for each in letters
            if each.origin is not None
        ]
        self._insert(INTENDED, entries, {})
        return entries

    def settle(self, entries: Sequence[Entry], offsets: Mapping[Origin, int]) -> None:
        """Write which entries of one attempt were sent, and that the others were not."""
        self._insert(SENT, [each for each in entries if each.origin in offsets], offsets)
        self._insert(NOT_SENT, [each for each in entries if each.origin not in offsets], {})

    def in_doubt(self) -> list[Entry]:
        """Return the entries of attempts that were interrupted, oldest first."""
        return self._attempts(
            "dead_letter_topic = {topic:String}",
            {"topic": self._topic},
            "HAVING sent_offset IS NULL AND is_not_sent = 0",
        )

    def find(self, origins: Iterable[Origin]) -> dict[Origin, Entry]:
        """Return what is known of records that were sent, or may have been; others are left out.

        Cheap when the origins lie close together: the range between them is read.
        """
        wanted = set(origins)
        found: dict[Origin, Entry] = {}
        for topic, partition in {(each.topic, each.position.partition) for each in wanted}:
            offsets = [
                each.position.offset
                for each in wanted
                if (each.topic, each.position.partition) == (topic, partition)
            ]
            for entry in self._attempts(
                "origin_topic = {topic:String} AND origin_partition = {partition:UInt32}"
                " AND origin_offset BETWEEN {first:UInt64} AND {last:UInt64}",
                {
                    "topic": topic,
                    "partition": partition,
                    "first": min(offsets),
                    "last": max(offsets),
                },
                "HAVING sent_offset IS NOT NULL OR is_not_sent = 0",
            ):
                known = found.get(entry.origin)
                if entry.origin in wanted and (known is None or known.target_offset is None):
                    found[entry.origin] = entry
        return found

    def redrive_from(self, topic: str, position: Position, since_ms: int) -> Entry | None:
        """Return the redrive, since a time, of the record that stands at a position, if any."""
        return self._one("origin_offset", "sent_offset IS NOT NULL OR", topic, position, since_ms)

    def redrive_to(self, topic: str, position: Position) -> Entry | None:
        """Return the redrive that put a record where it stands; ``None`` if a producer did."""
        return self._one("target_offset", "sent_offset IS NOT NULL AND", topic, position, 0)

    def _one(
        self, column: str, sent: str, topic: str, position: Position, since_ms: int
    ) -> Entry | None:
        found = self._attempts(
            "origin_topic = {topic:String} AND origin_partition = {partition:UInt32}"
            f" AND {column} = {{offset:UInt64}}",
            {
                "topic": topic,
                "partition": position.partition,
                "offset": position.offset,
                "since": since_ms,
            },
            f"HAVING ({sent} is_not_sent = 0) AND last_ms >= {{since:Int64}}",
        )
        return found[-1] if found else None

    def _attempts(self, where: str, parameters: dict[str, Any], having: str) -> list[Entry]:
        sql = _ATTEMPTS.replace("{where}", where).replace("{having}", having)
        try:
            rows = self._client.query(
                sql, parameters={**parameters, "database": self._database}
            ).result_rows
        except CAUGHT as error:
            raise self._sorted(error) from error
        return [_entry(row) for row in rows]

    def _insert(self, state: str, entries: Sequence[Entry], offsets: Mapping[Origin, int]) -> None:
        if not entries:
            return
        now_ms = _now_ms()
        rows = [
            {
                "recorded_at": now_ms,
                "attempt": each.attempt,
                "state": state,
                "dead_letter_topic": self._topic,
                "dead_letter_partition": each.letter.partition,
                "dead_letter_offset": each.letter.offset,
                "origin_topic": each.origin.topic,
                "origin_partition": each.origin.position.partition,
                "origin_offset": each.origin.position.offset,
                "origin_time": each.origin.append_time_ms,
                "reason": each.reason,
                "field": each.field,
                "target_end_offset": each.target_end_offset,
                "target_offset": offsets.get(each.origin),
            }
            for each in entries
        ]
        # The driver may send an insert twice when the connection breaks: the token makes it one.
        settings = {
            "async_insert": 0,
            "insert_deduplicate": 1,
            "insert_deduplication_token": f"{entries[0].attempt}:{state}",
        }
        try:
            self._client.insert_arrow(
                TABLE, pa.Table.from_pylist(rows, schema=_SCHEMA), self._database, settings
            )
        except CAUGHT as error:
            raise self._sorted(error) from error

    def _sorted(self, error: Exception) -> FatalError | RetryableError:
        if f"Code: {UNKNOWN_TABLE}." in str(error) or getattr(error, "code", 0) == UNKNOWN_TABLE:
            return ConfigurationError(
                f"database {self._database} has no table {TABLE}: run: tokentide migrate"
            )
        found = sorted_error(error)
        return FatalError(str(found)) if isinstance(found, RejectedBatchError) else found


@contextmanager
def ledger_at(address: ClickHouseAddress, topic: str) -> Iterator[tuple[HttpClient, Ledger]]:
    """Yield a client and the ledger of a dead-letter topic."""
    client = connect(address)
    try:
        yield client, Ledger(client, address.database, topic)
    finally:
        client.close()


def _entry(row: Sequence[Any]) -> Entry:
    attempt, partition, offset, topic, origin_partition, origin_offset, time_ms, *rest = row
    reason, field, end_offset, target_offset, is_not_sent, recorded_at_ms = rest
    return Entry(
        attempt=attempt,
        letter=Position(partition, offset),
        origin=Origin(topic, Position(origin_partition, origin_offset), time_ms),
        reason=reason,
        field=field,
        target_end_offset=end_offset,
        target_offset=target_offset,
        is_settled=target_offset is not None or bool(is_not_sent),
        recorded_at_ms=recorded_at_ms,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
