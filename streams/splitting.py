"""The values of Kafka's records as lines, by compiled loops: no object is made of a record.

Source:
    https://kafka.apache.org/documentation/#record, format 2: each record begins with its length, and
    numbers are varints with zigzag encoding. Keys and headers are passed over.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from streams.compiled import Pointer, compiled, compiled_once, pointer

NEWLINE = 0x0A
NO_LINE = b"{}"
VARINT_BITS_MAX = 63


def lines_of(
    records: bytes, count: int, line_bytes_max: int
) -> tuple[bytes | memoryview, dict[int, bytes | None]] | None:
    """Return the values joined by newlines, and by position those that are no line.

    No line is a null, an empty value, a longer one than that, and one with a newline in it; `NO_LINE`
    stands in its place. ``None`` if there is a gap in the offsets, or anything that is no record.

    Args:
        records: What follows the head of a record batch, uncompressed.
        count: How many records the head says.
    """
    starts, lengths = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    data = np.frombuffer(records, dtype=np.uint8)
    if not count or not _find(data, starts, lengths):
        return None
    odd = (lengths < 1) | (lengths > line_bytes_max)
    if not odd.any():
        joined = _joined(data, starts, lengths)
        if joined is not None:
            return joined, {}
    _mark_newlines(data, starts, lengths, odd)
    irregular = {
        at: records[starts[at] : starts[at] + lengths[at]] if lengths[at] >= 0 else None
        for at in np.flatnonzero(odd).tolist()
    }
    starts[odd], lengths[odd] = len(records), len(NO_LINE)
    joined = _joined(np.frombuffer(records + NO_LINE, dtype=np.uint8), starts, lengths)
    assert joined is not None, "a newline that was not marked"
    return joined, irregular


def _joined(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> memoryview | None:
    joined = np.empty(int(lengths.sum()) + len(lengths) - 1, dtype=np.uint8)
    return joined.data if _join(data, starts, lengths, joined) else None


@compiled_once
def _find(
    data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> bool:
    """Find each value; return whether all of the data is records with consecutive offsets."""
    byte, size, at = pointer(data), len(data), 0
    for record in range(len(starts)):
        at, length = _varint(byte, at, size)
        end = at + length
        if at < 0 or length < 1 or end > size:
            return False
        at, _ = _varint(byte, at + 1, end)  # After the attributes: the timestamp.
        at, offset = _varint(byte, at, end)
        at, key_length = _varint(byte, at, end)
        at, length = _varint(byte, at + max(key_length, 0), end)
        if at < 0 or offset != record or length < -1 or at + max(length, 0) > end:
            return False
        starts[record], lengths[record] = at, length
        at = end
    return at == size


@compiled
def _varint(byte: Pointer, at: int, end: int) -> tuple[int, int]:
    """Return where a number ends and what it is; -1 if it does not end before ``end``."""
    value, shift = 0, 0
    while 0 <= at < end and shift < VARINT_BITS_MAX:
        each = byte[at]
        at += 1
        value |= (each & 0x7F) << shift
        if each < 0x80:
            return at, (value >> 1) ^ -(value & 1)
        shift += 7
    return -1, 0


@compiled_once
def _join(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    joined: npt.NDArray[np.uint8],
) -> bool:
    """Copy the values with newlines between them; return whether there were none within."""
    source: Any = pointer(data)
    target: Any = pointer(joined)
    at, newlines = 0, 0
    for record in range(len(starts)):
        if record:
            target[at] = NEWLINE
            at += 1
        start = starts[record]
        for each in range(lengths[record]):
            value = source[start + each]
            newlines += value == NEWLINE
            target[at + each] = value
        at += lengths[record]
    return newlines == 0


@compiled_once
def _mark_newlines(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    marked: npt.NDArray[np.bool_],
) -> None:
    """Mark each value that has a newline in it."""
    source: Any = pointer(data)
    for record in range(len(starts)):
        for each in range(lengths[record]):
            if source[starts[record] + each] == NEWLINE:
                marked[record] = True
                break
