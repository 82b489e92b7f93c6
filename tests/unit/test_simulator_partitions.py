"""Partitions of many keys at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as murmur2_of_kafka_python

from deploy.local.simulator.partitions import murmur2, partitions_of
from deploy.local.simulator.population import Population

# From Apache Kafka's own test, UtilsTest.testMurmur2 (signed there).
KAFKA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def test_hashes_are_those_of_kafka() -> None:
    """The vectors of Kafka's own test come out."""
    found = murmur2(list(KAFKA_VECTORS)).astype(np.int32)
    assert found.tolist() == list(KAFKA_VECTORS.values())


@given(st.lists(st.binary(max_size=80)), st.integers(1, 200))
def test_partitions_are_those_of_kafka_python(keys: list[bytes], count: int) -> None:
    """Every key goes where kafka-python's default partitioner puts it."""
    hashes = murmur2(keys)
    expected = [murmur2_of_kafka_python(key) for key in keys]
    assert hashes.tolist() == expected
    assert partitions_of(hashes, count).tolist() == [(h & 0x7FFFFFFF) % count for h in expected]


def test_sessions_carry_the_hash_of_their_key() -> None:
    """What a session was hashed to is the hash of its key, and sessions spread evenly."""
    numbers = np.arange(3_000)
    times_ms = np.full(3_000, 1_787_529_600_000)
    sessions = Population(7).choose(numbers, times_ms, np.random.default_rng(1))
    assert sessions.key_hashes.tolist() == [murmur2_of_kafka_python(key) for key in sessions.keys]
    per_partition = np.bincount(partitions_of(sessions.key_hashes, 4))
    assert per_partition.min() > 500
