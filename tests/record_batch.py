"""Record batches for tests, made as the transport makes them."""

import struct

from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from faust.types import TP

from streams.record_batches import KeptRecords, RecordBatch, keep_whole, unpack

GZIP = 1


def record_batch(
    first_offset: int, *values: bytes | None, append_time_ms: int = 1_780_000_000_000
) -> RecordBatch:
    """Return a record batch of ``values`` at consecutive offsets."""
    return keep_whole(list(values), None, first_offset, first_offset + len(values), append_time_ms)


def fetched_batch(
    first_offset: int,
    *values: bytes | None,
    append_time_ms: int = 1_780_000_000_000,
    codec: int = GZIP,
) -> RecordBatch:
    """Return the same out of a fetch: compressed, unless ``codec`` is 0."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 24)
    for number, value in enumerate(values):
        builder.append(number, append_time_ms, None, value, [])
    # The offset is no part of what the checksum is made of.
    raw = struct.pack(">q", first_offset) + bytes(builder.build())[8:]
    tp = TP("llm-usage-v1", 0)
    records = PartitionRecords(
        tp, KeptRecords(raw), [], first_offset, None, None, True, READ_COMMITTED
    )
    (batch,) = unpack(records)
    return batch
