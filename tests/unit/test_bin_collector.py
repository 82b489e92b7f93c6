"""Bins put together: all dimensions of an end, in order, each end once."""

import random

import numpy as np

from streams.alerts.collecting import BinCollector
from streams.detection import BIN_MS, Bin

DIMENSIONS = frozenset({"vendor", "model", "origin"})
NONE = np.array([])


def one(dimension: str, number: int) -> Bin:
    return Bin(dimension, number * BIN_MS, (), NONE, NONE, NONE, NONE, NONE, NONE)


def ends(collector: BinCollector) -> list[tuple[int, bool]]:
    return [(each.end_ms // BIN_MS, each.is_whole) for each in collector.due()]


def test_an_end_waits_for_all_its_dimensions() -> None:
    """They come in any order; an end is given out once and in order of time."""
    collector = BinCollector(DIMENSIONS)
    bins = [one(name, number) for number in (1, 2) for name in sorted(DIMENSIONS)]
    random.Random(5).shuffle(bins)
    found = []
    for each in bins:
        collector.add(each)
        found += ends(collector)
    assert found == [(1, True), (2, True)]


def test_a_dimension_that_never_comes_is_not_waited_for_for_ever() -> None:
    """Two bins later the end goes without it; what comes for it then is counted."""
    collector = BinCollector(DIMENSIONS)
    for name in ("vendor", "model"):
        collector.add(one(name, 1))
    for number in (2, 3):
        assert ends(collector) == []
        for name in DIMENSIONS:
            collector.add(one(name, number))
    assert ends(collector) == [(1, False), (2, True), (3, True)]
    collector.add(one("origin", 1))
    assert ends(collector) == []
    assert collector.too_late == 1


def test_what_is_not_watched_or_was_seen_is_passed_over() -> None:
    """Other dimensions do not count; the first bin of an end and dimension does."""
    collector = BinCollector(DIMENSIONS, seen_ms=BIN_MS)
    collector.add(one("app", 2))
    collector.add(one("vendor", 1))
    first = one("vendor", 2)
    collector.add(first)
    collector.add(one("vendor", 2))
    for name in ("model", "origin"):
        collector.add(one(name, 2))
    (collected,) = collector.due()
    assert collected.bins["vendor"] is first
    assert collected.bins.keys() == DIMENSIONS
