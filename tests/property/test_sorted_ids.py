"""Ids that are merged are all there, in order, each with its own event time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streams.sorted_ids import Ids

# Few hashes, so that both have the same ones, and the largest there is.
PAIRS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 7, 1 << 63, (1 << 64) - 1]), st.integers(0, (1 << 32) - 1))
)


def ids_of(pairs: list[tuple[int, int]]) -> Ids:
    hashes, seconds = zip(*pairs, strict=True) if pairs else ((), ())
    return Ids.of(np.array(hashes, dtype=np.uint64), np.array(seconds, dtype=np.uint32))


def pairs_of(ids: Ids) -> list[tuple[int, int]]:
    return list(zip(ids.hashes.tolist(), ids.seconds.tolist(), strict=True))


@given(PAIRS, PAIRS)
def test_both_are_there_in_order(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    merged = ids_of(first).merged(ids_of(second))
    assert sorted(pairs_of(merged)) == sorted([*first, *second])
    assert merged.hashes.tolist() == sorted(merged.hashes.tolist())
