"""Kafka's default partition of a key, for many keys at once."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

UInt32s = NDArray[np.uint32]

_SEED = 0x9747B28C
_M = np.uint32(0x5BD1E995)
_POSITIVE = np.uint32(0x7FFFFFFF)


def murmur2(keys: Sequence[bytes]) -> UInt32s:
    """Return the murmur2 hash of every key.

    Source:
        Kafka, ``org.apache.kafka.common.utils.Utils.murmur2``; equal to kafka-python's.
    """
    hashes = np.zeros(len(keys), np.uint32)
    lengths = np.fromiter((len(key) for key in keys), np.int64, len(keys))
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        joined = b"".join([keys[row] for row in rows.tolist()])
        hashes[rows] = _murmur2_equal_length(joined, len(rows), int(length))
    return hashes


def partitions_of(hashes: UInt32s, partition_count: int) -> NDArray[np.int64]:
    """Return the partition of each hashed key, as Kafka's default partitioner chooses it."""
    return ((hashes & _POSITIVE) % np.uint32(partition_count)).astype(np.int64)


def _murmur2_equal_length(joined: bytes, count: int, length: int) -> UInt32s:
    data = np.frombuffer(joined, np.uint8).reshape(count, length)
    words = length // 4
    blocks = np.ascontiguousarray(data[:, : words * 4]).view("<u4").reshape(count, words)
    h = np.full(count, _SEED ^ length, np.uint32)
    for column in range(words):
        k = blocks[:, column] * _M
        k ^= k >> np.uint32(24)
        h = (h * _M) ^ (k * _M)
    tail = data[:, words * 4 :].astype(np.uint32)
    for place in range(tail.shape[1]):
        h ^= tail[:, place] << np.uint32(8 * place)
    if tail.shape[1]:
        h *= _M
    h ^= h >> np.uint32(13)
    h *= _M
    h ^= h >> np.uint32(15)
    return h
