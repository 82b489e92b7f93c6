"""The highest rate that is fresh is found by halves, within one step."""

import pytest

from tests.benchmarks.freshness import RATE_MAX, RATE_STEP, Freshness, highest_rate


def at(rate: int, limit: int, made: float = 1.0) -> Freshness:
    return Freshness(rate, rate * made, 1, 0.5, 0.9, 1.0 if rate <= limit else 3.0, None)


@pytest.mark.parametrize("limit", [20_000, 34_999, 35_000, 57_000, 60_000, 83_000])
def test_it_is_the_last_step_below_the_limit(limit: int) -> None:
    known = [at(rate, limit) for rate in (2_000, 20_000, 60_000)]
    asked: list[int] = []

    def measure_at(rate: int) -> Freshness:
        asked.append(rate)
        return at(rate, limit)

    assert highest_rate(known, measure_at) == limit // RATE_STEP * RATE_STEP
    assert len(asked) <= 4


def test_no_higher_rate_than_the_last_step_is_tried() -> None:
    assert highest_rate([at(60_000, 10**9)], lambda rate: at(rate, 10**9)) == RATE_MAX


def test_a_rate_that_was_not_made_was_not_held() -> None:
    assert highest_rate([at(20_000, 10**9)], lambda rate: at(rate, 10**9, 0.9)) == 20_000


def test_none_is_fresh() -> None:
    assert highest_rate([at(2_000, 0), at(20_000, 10**9)], lambda rate: at(rate, 0)) is None
