"""What must hold for every batch of values on its way from Kafka to rows, whatever is in them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pyarrow as pa

from schemas import usage_event
from schemas.catalogue import Catalogue, Model, Price
from schemas.errors import Reason, RecordError
from schemas.usage_event import UsageEvent
from sinks.usage_events import arrow_schema
from streams.dead_letters import Rejected
from streams.decoding import decode, events_of
from streams.enriching import blocks_by_month, enrich
from streams.record_batches import RecordBatch, keep_whole

APPEND_TIME_MS = 1_795_521_600_000
"""2026-11-24T12:00:00Z: the examples' events are about as old as events are."""
CATALOGUE = Catalogue.of(
    [
        Model("openai/gpt-4o-mini", vendor="openai", prices=(Price(0, 150, 600),)),
        Model(
            "openai/gpt-4o", vendor="openai", open_weights=False, prices=(Price(0, 10**9, 10**9),)
        ),
    ]
)
Values = Sequence[bytes | None]
Refusal = tuple[int, int, bytes | None, Reason, str]


@dataclass(frozen=True)
class Outcome:
    """What became of the values: rows, and refusals by reason."""

    rows: int
    reasons: Counter[str]


def record_batches(values: Values, random: Random) -> list[RecordBatch]:
    """Return the values as Kafka may hold them: in several batches, with offsets missing."""
    batches = []
    offset, at = random.randrange(1 << 40), 0
    while at < len(values):
        count = random.randint(0, len(values) - at)
        offsets: tuple[int, ...] | None = None
        end = offset + count
        if random.random() < 0.3:
            offsets = tuple(sorted(random.sample(range(offset, offset + 2 * count), count)))
            end = offset + 2 * count + random.randrange(2)
        append_time_ms = APPEND_TIME_MS + random.choice(
            (0, 0, 0, 1, 1000, 700_000_000, -86_400_000)
        )
        part = list(values[at : at + count])
        batches.append(keep_whole(part, offsets, offset, end, append_time_ms))
        offset, at = end, at + count
    return batches


def check(values: Values, random: Random) -> Outcome:
    """Decode and enrich the values as a worker does; assert that each is stored or refused, once.

    Raises:
        AssertionError: If one is lost, doubled, changed, or judged otherwise than by the strict
            decoder.
    """
    batches = record_batches(values, random)
    kept = [value for batch in batches for value in batch.values()]
    assert kept == list(values), "the transport changes values"
    events, refusals = strictly(batches)
    decoded = decode(batches)
    assert sorted(map(refusal, decoded.rejected)) == sorted(refusals), "refused otherwise"
    rows = enrich(decoded.events, CATALOGUE, partition=3, ingested_at_ms=APPEND_TIME_MS)
    assert rows.schema.names == arrow_schema().names
    assert rows.schema.types == arrow_schema().types
    for field in arrow_schema():
        assert field.nullable or rows[field.name].null_count == 0, f"{field.name} is null"
    expected = enrich(events_of(events), CATALOGUE, partition=3, ingested_at_ms=APPEND_TIME_MS)
    assert plain(rows).equals(plain(expected)), "stored otherwise"
    offsets = rows["kafka_offset"].to_pylist() + [each.offset for each in decoded.rejected]
    assert sorted(offsets) == all_offsets(batches), "the books do not balance"
    assert sum(block.rows.num_rows for block in blocks_by_month(rows)) == rows.num_rows
    return Outcome(rows.num_rows, Counter(each.reason.value for each in decoded.rejected))


def strictly(batches: Sequence[RecordBatch]) -> tuple[list[tuple[int, UsageEvent]], list[Refusal]]:
    """Return what the strict decoder makes of each record alone."""
    events: list[tuple[int, UsageEvent]] = []
    refusals: list[Refusal] = []
    for batch in batches:
        for position, value in enumerate(batch.values()):
            offset = batch.offset_of(position)
            try:
                event = usage_event.decode(value, append_time_ms=batch.append_time_ms)
            except RecordError as error:
                refusals.append((offset, batch.append_time_ms, value, error.reason, error.field))
            else:
                events.append((offset, event))
    return events, refusals


def refusal(rejected: Rejected) -> Refusal:
    """Return what is compared of a refused record."""
    return (
        rejected.offset,
        rejected.append_time_ms,
        rejected.value,
        rejected.reason,
        rejected.field,
    )


def all_offsets(batches: Sequence[RecordBatch]) -> list[int]:
    """Return the offset of every record, ascending."""
    return [batch.offset_of(position) for batch in batches for position in range(batch.count)]


def plain(rows: pa.Table) -> pa.Table:
    """Return rows in offset order with dictionaries resolved, to compare."""
    ordered = rows.sort_by("kafka_offset")
    columns: dict[str, Any] = {}
    for name in ordered.schema.names:
        column = ordered[name]
        is_coded = pa.types.is_dictionary(column.type)
        columns[name] = (column.cast(pa.string()) if is_coded else column).combine_chunks()
    return pa.table(columns)


def smallest(values: Values, seed: int) -> Values:
    """Return fewer of the values that still fail: the least that leaving out finds."""
    found = list(values)
    size = max(len(found) // 2, 1)
    while True:
        for begin in range(0, len(found), size):
            rest = found[:begin] + found[begin + size :]
            if rest and fails(rest, seed):
                found = rest
                break
        else:
            if size == 1:
                return found
            size //= 2


def fails(values: Values, seed: int) -> str:
    """Return how ``check`` fails on the values, or ``""``."""
    try:
        check(values, Random(seed))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    return ""
