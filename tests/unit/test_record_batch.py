"""A Kafka record batch kept whole: lines, and the values that are no line."""

import pytest
from aiokafka.codec import zstd_decode, zstd_encode

from streams.record_batches import DECODERS, keep_whole
from tests.record_batch import fetched_batch, record_batch


def test_values_become_lines() -> None:
    """Ordinary values are joined as they are, and come back as they were."""
    batch = record_batch(7, b'{"a":1}', b'{"b":2}')
    assert batch.joined == b'{"a":1}\n{"b":2}'
    assert not batch.irregular
    assert [batch.offset_of(i) for i in range(2)] == [7, 8]


def test_values_that_are_no_line_are_kept_aside_byte_for_byte() -> None:
    """A null, an empty value, one with a newline inside, and a huge one keep their neighbours right."""
    huge = b"x" * 5000
    values = [b"{}", None, b"", b'{\n"a":1}', b"\n", huge, b"last"]
    batch = record_batch(0, *values)
    assert bytes(batch.joined).split(b"\n") == [b"{}"] * 6 + [b"last"]
    assert set(batch.irregular) == {1, 2, 3, 4, 5}
    assert list(batch.values()) == values


def test_gaps_between_offsets_are_kept() -> None:
    """After a compaction each record still has its own offset, and the batch its own end."""
    batch = keep_whole([b"a", b"b"], (3, 6), 2, 9, 0)
    assert [batch.offset_of(i) for i in range(2)] == [3, 6]
    head, tail = batch.split_at(5)
    assert (head.first_offset, head.next_offset, list(head.values())) == (2, 5, [b"a"])
    assert (tail.first_offset, tail.next_offset, list(tail.values())) == (5, 9, [b"b"])
    assert tail.offset_of(0) == 6


def test_a_batch_without_records_covers_its_offsets() -> None:
    """A transaction's marker takes an offset and brings no record."""
    batch = keep_whole([], (), 4, 5, 0)
    assert (batch.count, batch.joined, list(batch.values())) == (0, b"", [])


def test_zstd_of_several_frames_is_read_whole_and_one_cut_short_is_refused() -> None:
    """What the kept context reads is what aiokafka's own reader does."""
    decompress = DECODERS[4]
    first, second = zstd_encode(b"first" * 100), zstd_encode(b"second" * 100)
    for data in (first, first + second):
        assert decompress(memoryview(data)) == zstd_decode(data)
    with pytest.raises(Exception, match=r".+"):
        decompress(memoryview(first[:-3]))
    assert decompress(memoryview(second)) == b"second" * 100


@pytest.mark.parametrize("codec", [0, 1, 4])
def test_values_that_were_let_go_are_made_again(codec: int) -> None:
    """Byte for byte, those that are no line too; and a batch can still be split."""
    values = [b"{}", None, b"", b'{\n"a":1}', b"x" * 5000, b"last"]
    batch = fetched_batch(3, *values, codec=codec)
    less = batch.let_go()
    assert (less.held_bytes < batch.held_bytes) == (codec != 0)
    assert list(less.values()) == list(batch.values()) == values
    head, tail = less.split_at(5)
    assert (list(head.values()), list(tail.values())) == (values[:2], values[2:])
    assert (head.next_offset, tail.first_offset, tail.next_offset) == (5, 5, 9)
