"""Ranges: contiguous, between Kafka's record batches, bounded by rows, bytes and time."""

import pytest
from faust.types import TP

from streams.batches import Batch, Gap, RangeCutter
from tests.record_batch import fetched_batch, record_batch

USAGE = TP("llm-usage-v1", 3)


def cutter(
    *,
    rows_max: int = 10,
    bytes_max: int = 10_000,
    next_offset: int | None = 0,
    declared: int | None = None,
) -> RangeCutter:
    return RangeCutter(
        USAGE,
        rows_max=rows_max,
        bytes_max=bytes_max,
        wait_ms=1000,
        next_offset=next_offset,
        declared_next_offset=declared,
    )


def bounds(batch: Batch | None) -> tuple[int, int] | None:
    return None if batch is None else (batch.first_offset, batch.next_offset)


def values(batch: Batch | None) -> list[bytes | None]:
    assert batch is not None
    return [value for each in batch.record_batches for value in each.values()]


def test_a_range_waits_no_longer_than_the_batch_wait() -> None:
    """A range that is not full is cut when its first record has waited, not before."""
    cut = cutter()
    cut.add([record_batch(0, b"a", b"b")], now_ms=100)
    cut.add([record_batch(2, b"c")], now_ms=900)
    assert cut.due_ms() == 1100
    assert cut.cut(1099) is None
    assert bounds(cut.cut(1100)) == (0, 3)
    assert cut.due_ms() is None


def test_a_full_range_is_cut_at_once_and_between_record_batches() -> None:
    """Rows bound a range; what does not fit waits for the next one."""
    cut = cutter(rows_max=5)
    cut.add([record_batch(0, *[b"x"] * 4), record_batch(4, *[b"y"] * 4)], now_ms=0)
    assert cut.is_full
    assert bounds(cut.cut(0)) == (0, 4)
    assert not cut.is_full
    assert cut.cut(0) is None
    assert bounds(cut.cut(1000)) == (4, 8)


def test_bytes_bound_a_range() -> None:
    """Few large records fill a range as many small ones do."""
    cut = cutter(bytes_max=100)
    cut.add([record_batch(i, b"x" * 60) for i in range(3)], now_ms=0)
    assert [bounds(cut.cut(0)), bounds(cut.cut(0))] == [(0, 1), (1, 2)]


def test_one_record_batch_above_the_limits_is_a_range_of_its_own() -> None:
    """A Kafka record batch is never cut for size, so a declared range can be rebuilt."""
    cut = cutter(rows_max=2)
    cut.add([record_batch(0, *[b"x"] * 7)], now_ms=0)
    assert bounds(cut.cut(0)) == (0, 7)


def test_what_was_taken_is_not_taken_again() -> None:
    """A seek back to the committed offset repeats records; they are passed over, to the record."""
    cut = cutter()
    cut.add([record_batch(0, b"a", b"b")], now_ms=0)
    assert cut.add([record_batch(0, b"a", b"b", b"c")], now_ms=0) == []
    assert values(cut.cut(1000)) == [b"a", b"b", b"c"]


def test_offsets_that_are_missing_are_reported() -> None:
    """Records that retention removed before they were read are never passed over in silence."""
    cut = cutter(next_offset=5)
    assert cut.add([record_batch(9, b"a")], now_ms=0) == [Gap(5, 9)]


def test_values_that_are_no_line_count_too() -> None:
    """A long one is kept aside, and takes as much memory there."""
    cut = cutter(bytes_max=10_000)
    cut.add([record_batch(0, b"x" * 9_000)], now_ms=0)
    assert not cut.is_full
    cut.add([record_batch(1, b"x" * 9_000)], now_ms=0)
    assert cut.is_full
    assert bounds(cut.cut(0)) == (0, 1)


def test_values_of_a_range_are_let_go_of_piece_by_piece() -> None:
    """What a broker gave compressed is enough to make them again; other values stay."""
    texts = [b"x" * 600, b"y" * 600, b"a", b"b" * 5000]
    parts = [
        fetched_batch(0, *texts),
        fetched_batch(4, *texts, codec=0),
        record_batch(8),
        fetched_batch(8, *texts),
    ]
    batch = Batch.of(USAGE, parts)
    sizes, seen = [batch.bytes], []
    for piece in batch.let_go_in_pieces(parts[0].held_bytes + parts[1].held_bytes):
        seen.append([value for each in piece for value in each.values()])
        sizes.append(batch.bytes)
    assert seen == [texts * 2, texts]
    packed = [len(parts[at].packed or b"") for at in (0, 3)]
    assert 0 < max(packed) < 200
    whole, plain = parts[0].held_bytes, parts[1].held_bytes
    assert sizes == [2 * whole + plain, 2 * whole + plain, packed[0] + plain + whole]
    assert batch.bytes == sum(packed) + plain
    assert values(batch) == texts * 3
    assert (batch.first_offset, batch.next_offset, batch.count) == (0, 12, 12)


def test_a_range_without_record_batches_is_one_piece() -> None:
    """Retention has removed what was declared."""
    assert list(Batch(USAGE, [], 4, 9).let_go_in_pieces(100)) == [[]]


@pytest.mark.parametrize("end", [2, 3, 5, 6])
def test_a_declared_range_is_rebuilt_exactly(end: int) -> None:
    """Whatever the limits and the time, the first range is the one an earlier owner declared."""
    cut = cutter(rows_max=1, declared=end)
    cut.add([record_batch(0, b"0", b"1", b"2")], now_ms=0)
    if end > 3:
        assert cut.cut(10_000) is None
        assert not cut.is_full, "the rest of the declared range must still be fetched"
    cut.add([record_batch(3, b"3", b"4", b"5")], now_ms=0)
    first = cut.cut(0)
    assert bounds(first) == (0, end)
    assert values(first) == [b"%d" % i for i in range(end)]
    rest: list[bytes | None] = []
    while (batch := cut.cut(0)) is not None:
        rest += values(batch)
    assert rest == [b"%d" % i for i in range(end, 6)]


@pytest.mark.parametrize("first_left", [2, 5])
def test_a_declared_range_keeps_its_bounds_when_retention_has_cut_it(first_left: int) -> None:
    """Its tokens must be those of the first attempt, which may have landed before the loss."""
    cut = cutter(declared=4)
    assert cut.add([record_batch(first_left, *[b"x"] * 4)], now_ms=0) == [Gap(0, first_left)]
    first = cut.cut(0)
    assert first is not None
    assert bounds(first) == (0, 4)
    assert (first.count, first.is_whole) == (max(4 - first_left, 0), False)
    following = cut.cut(1000)
    assert bounds(following) == (max(first_left, 4), first_left + 4)
    assert following is not None
    assert following.is_whole
