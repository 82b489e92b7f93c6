"""Kafka's record batches out of a fetch, kept whole: values joined by newlines (under 1 us per record).

Batches are split by a compiled loop; what is odd (old formats, gaps in the offsets, aborted
transactions) goes the long way through aiokafka's reader, record by record.
"""

import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import zstandard
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.record.memory_records import MemoryRecords

from schemas.errors import FatalError
from streams import odd_batches
from streams.splitting import NO_LINE, lines_of

LINE_BYTES_MAX = 2000
"""Longer values go to the strict decoder alone, which bounds size and depth."""
MAGIC_AT, MAGIC, CODEC_AT = 16, 2, 22
COUNT = struct.Struct(">i")


class _Reused(threading.local):
    """What a thread decompresses with: making it anew takes a third of the time."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_REUSED = _Reused()


def _zstd(data: memoryview) -> bytes:
    reader = _REUSED.zstd.decompressobj()
    text = reader.decompress(data)
    # Several frames, or one that is cut short: aiokafka's says which.
    return text if reader.eof and not reader.unused_data else zstd_decode(data)


DECODERS = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: _zstd}
"""By what the attributes of a record batch say."""


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """One Kafka record batch.

    Attributes:
        first_offset: Where the previous batch ended: the batches of a partition leave no gap.
        next_offset: Where the next batch begins.
        append_time_ms: The broker's clock when it appended the batch (LogAppendTime), epoch ms.
        count: Number of records; fewer than offsets after a compaction or a transaction's marker.
        joined: Exactly ``count`` lines: the values, joined by newlines. Empty once let go of.
        offsets: Offset of each record, or ``None`` when they count up from ``first_offset``.
        irregular: By position: values that are no line (null, empty, long, or with a newline inside).
            Their line in ``joined`` is ``{}``.
        packed: The batch as the broker gave it, if it is compressed.
    """

    first_offset: int
    next_offset: int
    append_time_ms: int
    count: int
    joined: bytes | memoryview
    offsets: tuple[int, ...] | None
    irregular: Mapping[int, bytes | None]
    packed: memoryview | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes of its values, those kept aside too, and of what the broker gave."""
        aside = sum(len(value or b"") for value in self.irregular.values())
        return len(self.joined) + aside + len(self.packed or b"")

    def let_go(self) -> "RecordBatch":
        """Return it without its values, if they can be made again of what the broker gave."""
        return self if self.packed is None else replace(self, joined=b"", irregular={})

    def offset_of(self, position: int) -> int:
        """Return the offset of the record at ``position``."""
        return self.first_offset + position if self.offsets is None else self.offsets[position]

    def split_at(self, offset: int) -> tuple["RecordBatch", "RecordBatch"]:
        """Return the records before ``offset`` and those from it on."""
        offsets = self.offsets or tuple(range(self.first_offset, self.first_offset + self.count))
        cut = sum(1 for each in offsets if each < offset)
        values = list(self.values())
        head = keep_whole(
            values[:cut], offsets[:cut], self.first_offset, offset, self.append_time_ms
        )
        tail = keep_whole(
            values[cut:], offsets[cut:], offset, self.next_offset, self.append_time_ms
        )
        return head, tail

    def values(self) -> Iterator[bytes | None]:
        """Yield each value as the producer sent it."""
        if not self.count:
            return
        joined, irregular = self.joined, self.irregular
        if not joined and self.packed is not None:
            lines = _lines(self.packed, self.count)
            assert lines is not None, "it was read before"
            joined, irregular = lines
        for position, line in enumerate(bytes(joined).split(b"\n")):
            yield irregular.get(position, line)


def keep_whole(
    values: list[bytes | None],
    offsets: tuple[int, ...] | None,
    first_offset: int,
    next_offset: int,
    append_time_ms: int,
) -> RecordBatch:
    """Return the record batch of ``values``; ``offsets`` of ``None`` are consecutive."""
    irregular: dict[int, bytes | None] = {}
    try:
        joined = b"\n".join(values)  # type: ignore[arg-type]
        regular = all(values) and joined.count(b"\n") == max(len(values) - 1, 0)
        regular &= max(map(len, values), default=0) <= LINE_BYTES_MAX  # type: ignore[arg-type]
    except TypeError:
        regular = False
    if not regular:
        irregular = {i: v for i, v in enumerate(values) if not _is_line(v)}
        joined = b"\n".join(NO_LINE if i in irregular else v or b"" for i, v in enumerate(values))
    if offsets is not None and offsets == tuple(range(first_offset, first_offset + len(values))):
        offsets = None
    return RecordBatch(
        first_offset, next_offset, append_time_ms, len(values), joined, offsets, irregular
    )


def _is_line(value: bytes | None) -> bool:
    return value is not None and 0 < len(value) <= LINE_BYTES_MAX and b"\n" not in value


def unpack(records: Any) -> list[RecordBatch]:
    """Return a fetch's record batches whole, and move its ``next_fetch_offset`` past them.

    Args:
        records: aiokafka's ``PartitionRecords``, not yet iterated.

    Raises:
        FatalError: If a batch is damaged.

    Source:
        ``PartitionRecords._unpack_records`` of aiokafka 0.14, which builds an object per record.
    """
    batches: list[RecordBatch] = []
    begin = 0
    while records._records.has_next():
        batch = records._records.next_batch()
        if records._check_crcs and not batch.validate_crc():
            raise _unreadable(records._tp, batch.base_offset, "wrong checksum")
        position = records.next_fetch_offset
        raw, begin = odd_batches.batch_from(records._records.fetched, begin)
        is_visible = _is_visible(records, batch)
        whole = _whole(raw, batch, position) if is_visible else None
        if whole is not None:
            batches.append(whole)
            records.next_fetch_offset = batch.next_offset
            continue
        kept = _records(records, raw, batch) if is_visible else []
        offsets: tuple[int, ...] | None = None
        if batch.base_offset != position or len(kept) != batch.next_offset - position:
            # A commit inside a batch, or offsets that compaction or a transaction took: rare.
            kept = [record for record in kept if record.offset >= position]
            offsets = tuple(record.offset for record in kept)
        values = [record.value for record in kept]
        next_offset = batch.next_offset
        batches.append(keep_whole(values, offsets, position, next_offset, batch.max_timestamp))
        records.next_fetch_offset = next_offset
    return batches


def _whole(raw: memoryview, batch: Any, position: int) -> RecordBatch | None:
    """Return a batch that has all of its offsets, in the format of today; else ``None``."""
    if raw[MAGIC_AT] != MAGIC or batch.base_offset != position:
        return None
    (count,) = COUNT.unpack_from(raw, odd_batches.COUNT_AT)
    if batch.next_offset - position != count:
        return None
    try:
        found = _lines(raw, count)
    except Exception:
        return None  # The long way says what it is.
    if found is None:
        return None
    packed = raw if raw[CODEC_AT] & odd_batches.CODEC_MASK else None
    return RecordBatch(
        position, batch.next_offset, batch.max_timestamp, count, found[0], None, found[1], packed
    )


def _lines(
    raw: memoryview, count: int
) -> tuple[bytes | memoryview, dict[int, bytes | None]] | None:
    """Return what `lines_of` makes of the records of a batch."""
    decompress = DECODERS.get(raw[CODEC_AT] & odd_batches.CODEC_MASK)
    data = raw[odd_batches.RECORDS_AT :]
    return lines_of(decompress(data) if decompress else bytes(data), count, LINE_BYTES_MAX)


def _records(records: Any, raw: memoryview, batch: Any) -> list[Any]:
    """Return the records of a batch, one by one.

    Raises:
        FatalError: If nobody can read it.
    """
    try:
        return list(batch)
    except Exception as error:
        try:
            return list(odd_batches.read_values(bytes(raw)))
        except ValueError as also:
            raise _unreadable(records._tp, batch.base_offset, f"{error!r}, {also}") from error


def _unreadable(tp: Any, offset: int, reason: str) -> FatalError:
    return FatalError(
        f"record batch at offset {offset} of {tp.topic}/{tp.partition} can't be read ({reason}): the"
        " broker's copy is damaged; mend the replica, or give the batch up with kafka-delete-records"
    )


class KeptRecords(MemoryRecords):  # type: ignore[misc]
    """aiokafka's reader of a fetch, which does not show what it reads."""

    def __init__(self, fetched: bytes) -> None:
        super().__init__(fetched)
        self.fetched = fetched


fetcher.MemoryRecords = KeptRecords
"""For the bytes of a record batch, as they came."""


def _is_visible(records: Any, batch: Any) -> bool:
    """Say whether a batch is data, and not aborted by its transaction."""
    if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
        records._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and records._contains_abort_marker(batch):
            records._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in records._aborted_producers:
            return False
    return not batch.is_control_batch
