"""Which offsets are lost or doubled, against counting each one."""

from collections import Counter
from itertools import pairwise
from unittest.mock import patch

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sinks import reconciling_offsets
from sinks.reconciling_offsets import _Bucket, _unbalanced, gaps, hash_sum_of

BUCKET = 8
RANGE = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: (min(pair), max(pair)))


@given(RANGE, st.lists(st.integers(0, 40), max_size=60), st.lists(st.integers(0, 40), unique=True))
def test_a_bucket_balances_only_when_each_offset_is_there_once(
    offsets: tuple[int, int], rows: list[int], dead: list[int]
) -> None:
    """Whatever is lost and doubled, also at once and in equal numbers."""
    start, end = offsets
    stored = [offset for offset in rows if start <= offset < end]
    buckets: dict[int, _Bucket] = {}
    for offset in stored:
        bucket = buckets.setdefault(offset // BUCKET, _Bucket())
        bucket.count += 1
        bucket.hash_sum = (bucket.hash_sum + hash_sum_of(np.array([offset], np.uint64))) % 2**64
    counts = Counter(stored) + Counter(offset for offset in dead if start <= offset < end)
    wrong = {offset // BUCKET for offset in range(start, end) if counts[offset] != 1}
    with patch.object(reconciling_offsets, "BUCKET_OFFSETS", BUCKET):
        found = _unbalanced(buckets, np.array(sorted(dead), np.uint64), offsets)
    assert found == sorted(wrong)


@given(RANGE, st.sets(st.integers(0, 40)))
def test_gaps_are_what_is_not_known(offsets: tuple[int, int], known: set[int]) -> None:
    """Half-open, in order, none empty, none touching another."""
    start, end = offsets
    inside = sorted(each for each in known if start <= each < end)
    found = gaps(np.array(inside, np.uint64), offsets)
    missing = [offset for first, after in found for offset in range(first, after)]
    assert missing == [offset for offset in range(start, end) if offset not in known]
    assert all(first < after for first, after in found)
    assert all(one[1] < other[0] for one, other in pairwise(found))
