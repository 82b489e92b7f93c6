"""Record batches byte by byte: well made, odd and damaged, and a way to give them to a broker."""

import gzip
import struct
from collections.abc import Callable, Sequence

import crc32c
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

LENGTH_AT, CRC_AT, ATTRIBUTES_AT, COUNT_AT, RECORDS_AT = 8, 17, 21, 57, 61
LOG_OVERHEAD = 12
NONE, GZIP, SNAPPY, LZ4, ZSTD = CODECS = range(5)
COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    NONE: bytes,
    GZIP: gzip.compress,
    SNAPPY: snappy_encode,
    LZ4: lz4_encode,
    ZSTD: zstd_encode,
}
REQUEST_TIMEOUT_MS = 10_000


def record_batch(codec: int, values: Sequence[bytes | None], header: bytes = b"") -> bytes:
    """Return a batch of values at offsets from 0 on; each record has ``header`` as a header's name."""
    builder = DefaultRecordBatchBuilder(2, NONE, 0, -1, -1, -1, 1 << 24)
    name = "\x01" * len(header)
    for offset, value in enumerate(values):
        headers = [(name, b"value")] if header else []
        builder.append(offset, 1_000, b"key", value, headers)
    plain = bytes(builder.build())
    records = plain[RECORDS_AT:]
    if header:
        records = records.replace(name.encode(), header)
    return with_records(plain, COMPRESS[codec](records), codec)


def with_records(batch: bytes, records: bytes, codec: int | None = None) -> bytes:
    """Return a batch with other records, its length and its checksum made right."""
    changed = bytearray(batch[:RECORDS_AT] + records)
    if codec is not None:
        struct.pack_into(">h", changed, ATTRIBUTES_AT, codec)
    return sealed(bytes(changed))


def with_count(batch: bytes, count: int) -> bytes:
    """Return a batch that says it has ``count`` records."""
    return sealed(batch[:COUNT_AT] + struct.pack(">i", count) + batch[RECORDS_AT:])


def sealed(batch: bytes) -> bytes:
    """Return a batch whose length and checksum are right."""
    changed = bytearray(batch)
    struct.pack_into(">i", changed, LENGTH_AT, len(changed) - LOG_OVERHEAD)
    struct.pack_into(">I", changed, CRC_AT, crc32c.crc32c(bytes(changed[ATTRIBUTES_AT:])))
    return bytes(changed)


def damaged(codec: int, values: Sequence[bytes | None]) -> dict[str, bytes]:
    """Return batches that can't be read, all but one with a checksum that is right."""
    good = record_batch(codec, values)
    records = good[RECORDS_AT:]
    half = len(records) // 2
    flipped = records[:half] + bytes([records[half] ^ 0xFF]) + records[half + 1 :]
    return {
        "wrong checksum": good[:CRC_AT] + b"\0\0\0\0" + good[ATTRIBUTES_AT:],
        "truncated": with_records(good, records[:half]),
        "garbage": with_records(good, b"g" * len(records)),
        "zeros": with_records(good, bytes(len(records))),
        "nothing": with_records(good, b""),
        "a byte flipped": with_records(good, flipped),
        "a record too few": with_count(good, len(values) + 1),
        "a record too many": with_count(good, len(values) - 1),
        "codec 7": with_records(good, records, 7),
    }


def odd(values: Sequence[bytes | None]) -> dict[str, bytes]:
    """Return batches that a broker takes and that aiokafka 0.14 does not read."""
    gzipped, lz4 = record_batch(GZIP, values), record_batch(LZ4, values)
    return {
        "header that is not UTF-8": record_batch(NONE, values, header=b"\xff\xfe"),
        "compressed, header that is not UTF-8": record_batch(ZSTD, values, header=b"\xe9"),
        "bytes after gzip": with_records(gzipped, gzipped[RECORDS_AT:] + b"junk"),
        "bytes after lz4": with_records(lz4, lz4[RECORDS_AT:] + b"junk"),
        "zeros after lz4": with_records(lz4, lz4[RECORDS_AT:] + bytes(9)),
    }


async def produce(bootstrap: str, topic: str, batches: Sequence[bytes]) -> list[int]:
    """Send batches to partition 0, one after the other; return the broker's error codes, 0 is none."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        await client._wait_on_metadata(topic)
        node = client.cluster.leader_for_partition(TopicPartition(topic, 0))
        errors = []
        for batch in batches:
            request = ProduceRequest(
                transactional_id=None,
                required_acks=-1,
                timeout=REQUEST_TIMEOUT_MS,
                topics=[(topic, [(0, batch)])],
            )
            response = await client.send(node, request)
            errors.append(int(response.topics[0][1][0][1]))
        return errors
    finally:
        await client.close()
