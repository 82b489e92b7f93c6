"""What became of a refused record: the redrives before and after it, and where the last one ended."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from clickhouse_connect.driver.httpclient import HttpClient

from deploy.addresses import reader_address
from deploy.cli.dead_letters_text import time_text, value_text
from deploy.dead_letters_reader import DeadLetter, Filter, TopicReader, read_dead_letters
from deploy.redrive_ledger import Entry, Ledger, ledger_at
from schemas.errors import FatalError, RecordError, RetryableError
from schemas.usage_event import decode
from sinks.clickhouse import CAUGHT, sorted_error
from streams.settings import Settings

REDRIVES_MAX = 20
"""Redrives of one record that are followed, each way."""
CLOCKS_DIFFER_MS = 10 * 60_000
"""How much the clocks of workers and of this machine may differ."""

STORED_SQL = """
SELECT event_id FROM usage_events
WHERE occurred_at = fromUnixTimestamp64Milli({time_ms:Int64}, 'UTC')
    AND kafka_partition = {partition:UInt32} AND kafka_offset = {offset:UInt64}
"""
DUPLICATE_SQL = """
SELECT event_id FROM usage_duplicates
WHERE kafka_partition = {partition:UInt32} AND kafka_offset = {offset:UInt64}
"""


@dataclass(frozen=True)
class History:
    """The redrives of a record, or why they are not known.

    Attributes:
        earlier: Redrives that put it where it was refused, the first one first.
        later: Redrives of it, and of what they sent if that was refused and sent again.
        end: What became of the last record sent.
    """

    earlier: tuple[Entry, ...] = ()
    later: tuple[Entry, ...] = ()
    end: str = ""
    unknown: str = ""

    def lines(self) -> list[str]:
        """Return it as text, a line per step."""
        if self.unknown:
            return [f"not known: {self.unknown}"]
        steps = [_line(entry) for entry in (*self.earlier, *self.later)]
        return [*steps, self.end] if self.end else steps or ["never sent again"]


def _line(entry: Entry) -> str:
    if entry.target is None:
        return (
            f"{time_text(entry.recorded_at_ms)} {entry.origin.position} in doubt: the redrive was"
            " interrupted, the next one finds out"
        )
    field = f" {value_text(entry.field.encode(), 64)}" if entry.field else ""
    reason = value_text(entry.reason.encode(), 64)
    return (
        f"{time_text(entry.recorded_at_ms)} {entry.origin.position} ({reason}{field})"
        f" sent again to {entry.target}"
    )


def read_history(settings: Settings, reader: TopicReader, letter: DeadLetter) -> History:
    """Return the history of a dead letter; without ClickHouse it says that it is not known."""
    if letter.origin is None:
        return History()
    try:
        with ledger_at(reader_address(settings), reader.topic) as (client, ledger):
            earlier = _earlier(ledger, letter)
            later = _later(ledger, letter)
            end = _end(client, reader, later[-1], letter.value) if later else ""
            return History(tuple(earlier), tuple(later), end)
    except CAUGHT as error:
        return History(unknown=str(sorted_error(error)))
    except (RetryableError, FatalError) as error:
        return History(unknown=str(error))


def _earlier(ledger: Ledger, letter: DeadLetter) -> list[Entry]:
    assert letter.origin is not None
    topic, position = letter.origin.topic, letter.origin.position
    entries: list[Entry] = []
    while len(entries) < REDRIVES_MAX and (entry := ledger.redrive_to(topic, position)):
        entries.insert(0, entry)
        position = entry.origin.position
    return entries


def _later(ledger: Ledger, letter: DeadLetter) -> list[Entry]:
    assert letter.origin is not None
    entry = ledger.find([letter.origin]).get(letter.origin)
    entries: list[Entry] = []
    while entry is not None and len(entries) < REDRIVES_MAX:
        entries.append(entry)
        if entry.target is None:
            break
        entry = ledger.redrive_from(letter.origin.topic, entry.target, entry.recorded_at_ms)
    return entries


def _end(client: HttpClient, reader: TopicReader, last: Entry, value: bytes | None) -> str:
    """Return what became of the record that the last redrive sent."""
    if last.target is None:
        return ""
    parameters: dict[str, Any] = {
        "partition": last.target.partition,
        "offset": last.target.offset,
        "time_ms": _event_time_ms(value, last.recorded_at_ms),
    }
    if rows := client.query(STORED_SQL, parameters=parameters).result_rows:
        return f"{last.target} stored as event {value_text(rows[0][0].encode(), 200)}"
    if rows := client.query(DUPLICATE_SQL, parameters=parameters).result_rows:
        event_id = value_text(rows[0][0].encode(), 200)
        return f"{last.target} dropped: event {event_id} had been stored before"
    for again in _dead_letters_of(reader, last):
        field = f" {value_text(again.field.encode(), 64)}" if again.field else ""
        reason = value_text(again.reason.encode(), 64)
        return f"{last.target} refused again: {reason}{field} (dead letter {again.position})"
    return f"{last.target} neither stored nor refused yet"


def _event_time_ms(value: bytes | None, sent_ms: int) -> int:
    """Return the time a row of the value has, 0 if it is no event."""
    try:
        return decode(value, append_time_ms=sent_ms + CLOCKS_DIFFER_MS).occurred_at_ms
    except RecordError:
        return 0


def _dead_letters_of(reader: TopicReader, last: Entry) -> Iterator[DeadLetter]:
    assert last.target is not None
    wanted = Filter(
        since_ms=last.recorded_at_ms - CLOCKS_DIFFER_MS,
        partitions=frozenset({last.target.partition}),
        origin_offsets=((last.target.offset, last.target.offset),),
    )
    return read_dead_letters(reader, wanted)
