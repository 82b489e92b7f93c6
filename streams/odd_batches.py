"""The values of a record batch that aiokafka can't read although the broker took it.

Three kinds are known, and any producer can make them: a header whose name is not UTF-8, and bytes that
follow the compressed data of gzip or lz4 (Kafka's own reader stops before them). Keys and headers are
passed over here, so nothing in them matters.

Source:
    https://kafka.apache.org/documentation/#recordbatch, format 2.
"""

import struct
import zlib
from typing import NamedTuple

import lz4.frame  # type: ignore[import-untyped]
from aiokafka.codec import snappy_decode, zstd_decode

ATTRIBUTES_AT, COUNT_AT, RECORDS_AT = 21, 57, 61
BATCH_HEAD = struct.Struct(">qi")
GZIP_MAGIC = b"\x1f\x8b"
INFLATE_GZIP = 16 + zlib.MAX_WBITS
CODEC_MASK = 0x07


class Value(NamedTuple):
    """A record, as far as it is needed."""

    offset: int
    value: bytes | None


def batch_from(fetched: bytes, begin: int) -> tuple[memoryview, int]:
    """Return the bytes of the record batch that begins at a place, and the place after it."""
    _, length = BATCH_HEAD.unpack_from(fetched, begin)
    end = begin + BATCH_HEAD.size + length
    return memoryview(fetched)[begin:end], end


def read_values(record_batch: bytes) -> list[Value]:
    """Return the records of a batch.

    Raises:
        ValueError: If this can't be read either: nobody can.
    """
    try:
        (attributes,) = struct.unpack_from(">h", record_batch, ATTRIBUTES_AT)
        (count,) = struct.unpack_from(">i", record_batch, COUNT_AT)
        (base_offset,) = struct.unpack_from(">q", record_batch)
        records = _decompress(attributes & CODEC_MASK, record_batch[RECORDS_AT:])
        return _read(records, count, base_offset)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _decompress(codec: int, data: bytes) -> bytes:
    match codec:
        case 0:
            return data
        case 1:
            return _gunzip(data)
        case 2:
            return bytes(snappy_decode(data))
        case 3:
            return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data))
        case 4:
            return bytes(zstd_decode(data))
    raise ValueError(f"compression codec {codec} is not known")


def _gunzip(data: bytes) -> bytes:
    """Return what the members of a gzip stream hold, up to what is no member."""
    parts = []
    while data.startswith(GZIP_MAGIC):
        member = zlib.decompressobj(INFLATE_GZIP)
        parts.append(member.decompress(data))
        if not member.eof:
            raise ValueError("gzip data is cut off")
        data = member.unused_data
    return b"".join(parts)


def _read(records: bytes, count: int, base_offset: int) -> list[Value]:
    found = []
    at = 0
    for _ in range(count):
        length, at = _varint(records, at)
        end = at + length
        if length < 0 or end > len(records):
            raise ValueError("a record is cut off")
        at += 1  # Attributes, which no version uses.
        _, at = _varint(records, at)
        offset_delta, at = _varint(records, at)
        key_length, at = _varint(records, at)
        value_length, at = _varint(records, at + max(key_length, 0))
        value = records[at : at + value_length] if value_length >= 0 else None
        if at + max(value_length, 0) > end:
            raise ValueError("a value is longer than its record")
        found.append(Value(base_offset + offset_delta, value))
        at = end
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a zigzag-coded integer and where the next one begins."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
