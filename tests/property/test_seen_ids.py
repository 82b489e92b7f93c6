"""What is recognised as sent again: equal to the rule in plain Python, whatever memory holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import pyarrow as pa
import pytest
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import seen_ids
from streams.batches import Batch
from streams.decoding import decode
from streams.record_batches import RecordBatch
from streams.seen_ids import FRESH_SECONDS, TOLERANCE_SECONDS, SeenIds
from tests.record_batch import record_batch

USAGE = TP("llm-usage-v1", 2)
NOW_MS = 1_780_000_000_000
WINDOW_MS = 3_600_000


@dataclass(frozen=True)
class Sent:
    """One record: who, and how long before its arrival it says that it happened."""

    event_id: str
    source: str
    age_ms: int

    def value(self, append_time_ms: int) -> bytes:
        moment = datetime.fromtimestamp((append_time_ms - self.age_ms) / 1000, UTC)
        return orjson.dumps(
            {
                "schema_version": 1,
                "event_id": self.event_id,
                "source": self.source,
                "occurred_at": moment.isoformat(timespec="milliseconds"),
                "model_raw": "a/b",
                "status": "error",
            }
        )


@dataclass
class Log:
    """The partition as it is: what was stored, and the rule in plain words."""

    stored: list[tuple[int, str, str, int]] = field(default_factory=list)
    asked: int = 0

    def is_duplicate(self, sent: Sent, append_time_ms: int) -> bool:
        if sent.age_ms > WINDOW_MS:
            return False
        second = (append_time_ms - sent.age_ms) // 1000
        is_fresh = sent.age_ms <= FRESH_SECONDS * 1000
        near = TOLERANCE_SECONDS if is_fresh else 1
        return any(
            (event_id, source) == (sent.event_id, sent.source) and abs(second - each) < near
            for _, event_id, source, each in self.stored
        )

    def newest_second(self, partition: int) -> int | None:
        assert partition == USAGE.partition
        return max((second for *_, second in self.stored), default=None)

    def ids(
        self,
        partition: int,
        *,
        before_offset: int,
        ranges: Sequence[tuple[int, int]],
        event_ids: Sequence[str] | None = None,
        newest_max: int | None = None,
    ) -> pa.Table:
        assert partition == USAGE.partition
        self.asked += 1
        found = [
            (event_id, source, second)
            for offset, event_id, source, second in self.stored
            if offset < before_offset
            and any(begin <= second < end for begin, end in ranges)
            and (event_ids is None or event_id in event_ids)
        ]
        found.sort(key=lambda each: -each[2])
        chosen = found[:newest_max]
        return pa.table(
            {
                "event_id": pa.array([event_id for event_id, _, _ in chosen], pa.string()),
                "source": pa.array([source for _, source, _ in chosen], pa.string()),
                "second": pa.array([second for _, _, second in chosen], pa.uint32()),
            }
        )


AGES_MS = st.one_of(
    st.integers(-30_000, 90_000),
    st.sampled_from([-999, 0, 999, 1000, 59_000, 60_000, 61_000]),
    st.integers(280_000, 380_000),
    st.integers(WINDOW_MS - 5_000, WINDOW_MS + 5_000),
)
SENT = st.builds(Sent, st.sampled_from("abcde"), st.sampled_from(["litellm", "otel"]), AGES_MS)
RANGE = st.tuples(
    st.lists(st.lists(SENT, min_size=1, max_size=6), min_size=1, max_size=3),
    st.integers(0, 400_000),
    st.booleans(),
)


@settings(max_examples=150)
@given(st.lists(RANGE, min_size=1, max_size=8), st.sampled_from([4, 16, 1000]), st.booleans())
def test_equal_to_the_rule(
    ranges: list[tuple[list[list[Sent]], int, bool]], ids_max: int, asks_by_id: bool
) -> None:
    """Over batches, ranges, restarts and evictions: by id or by time, from memory or ClickHouse."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_ids, "MERGE_IDS", 5)
        patch.setattr(seen_ids, "ASK_RANGES_MAX", 2)
        patch.setattr(seen_ids, "ASK_BY_ID_MAX", 1000 if asks_by_id else 0)
        run(ranges, ids_max)


def run(ranges: list[tuple[list[list[Sent]], int, bool]], ids_max: int) -> None:
    log = Log()
    seen = SeenIds(USAGE.partition, log, ids_max=ids_max, window_ms=WINDOW_MS)
    offset, append_time_ms = 100, NOW_MS
    for batches, pause_ms, is_new_owner in ranges:
        if is_new_owner:
            seen = SeenIds(USAGE.partition, log, ids_max=ids_max, window_ms=WINDOW_MS)
        made: list[RecordBatch] = []
        expected: list[bool] = []
        first_offset = offset
        for records in batches:
            append_time_ms += pause_ms
            values = [each.value(append_time_ms) for each in records]
            made.append(record_batch(offset, *values, append_time_ms=append_time_ms))
            for each in records:
                is_duplicate = log.is_duplicate(each, append_time_ms)
                expected.append(is_duplicate)
                if not is_duplicate:
                    second = (append_time_ms - each.age_ms) // 1000
                    log.stored.append((offset, each.event_id, each.source, second))
                offset += 1
        batch = Batch.of(USAGE, made)
        events = decode(batch.record_batches).events
        checked = seen.check(events, batch)
        by_offset = dict(zip(events.offsets.tolist(), checked.is_duplicate.tolist(), strict=True))
        assert [by_offset[first_offset + at] for at in range(len(expected))] == expected
        seen.remember(checked)
        assert len(seen) <= max(ids_max, len(expected)) + 5


def test_a_partition_that_began_with_this_owner_asks_nothing() -> None:
    """Everything stored is in memory, so no query is made, however late an event is."""
    log = Log()
    seen = SeenIds(USAGE.partition, log, ids_max=1000, window_ms=WINDOW_MS)
    for number in range(5):
        values = [Sent(f"{number}", "otel", 400_000 * number).value(NOW_MS)]
        batch = Batch.of(USAGE, [record_batch(number, *values, append_time_ms=NOW_MS)])
        seen.remember(seen.check(decode(batch.record_batches).events, batch))
    assert log.asked == 0


def test_a_refused_row_is_not_remembered() -> None:
    """What ClickHouse did not take may come again, mended."""
    seen = SeenIds(USAGE.partition, Log(), ids_max=1000, window_ms=WINDOW_MS)
    values = [Sent(name, "otel", 0).value(NOW_MS) for name in "ab"]
    batch = Batch.of(USAGE, [record_batch(7, *values, append_time_ms=NOW_MS)])
    seen.remember(seen.check(decode(batch.record_batches).events, batch), refused_offsets=[8])
    again = Batch.of(USAGE, [record_batch(9, *values, append_time_ms=NOW_MS)])
    checked = seen.check(decode(again.record_batches).events, again)
    assert checked.is_duplicate.tolist() == [True, False]


def test_no_window_drops_nothing() -> None:
    """The check can be switched off."""
    seen = SeenIds(USAGE.partition, Log(), ids_max=1000, window_ms=0)
    values = [Sent("a", "otel", -5000).value(NOW_MS)] * 3
    batch = Batch.of(USAGE, [record_batch(7, *values, append_time_ms=NOW_MS)])
    assert not seen.check(decode(batch.record_batches).events, batch).is_duplicate.any()
