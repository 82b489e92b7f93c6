"""The detector on drawn markets, and a small honest evaluation with fixed seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams.detection import BIN_MS, OTHER, Bin, MarketDetector, Parameters, State, Transition
from streams.detection.calibration import threshold
from streams.detection.residuals import residuals
from tests.benchmarks.alerts.running import BUDGET, DIMENSION, alarms_of, transitions_of
from tests.benchmarks.alerts.running import peaks as peaks_of
from tests.benchmarks.alerts.scoring import SERIES, score
from tests.benchmarks.alerts.stream_path import stream_bins
from tests.benchmarks.alerts.worlds import BINS_PER_DAY, START_MS, make_world

NAMES = ("a", "b", "c", "d", "other")
Steps = list[tuple[float, ...]]

weights = st.tuples(*[st.floats(0.01, 10.0)] * len(NAMES))
# The same draws each time: thresholds allow an alarm by chance, seen in one of forty such markets.
few = settings(
    max_examples=6, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def market(
    seed: int, steps: Steps, bins_each: int, *, first: int = 0, by: float = 1.0
) -> Iterator[Mapping[str, Bin]]:
    """Return bins whose shares follow the steps, with Poisson noise."""
    rng = np.random.default_rng(seed)
    shares = np.array([np.array(step) / sum(step) for step in steps])
    drawn = rng.poisson(800 * by * np.repeat(shares, bins_each, axis=0))
    # Sums of exponential tokens of 600 each.
    sums = 600.0 * rng.gamma(np.maximum(drawn, 1e-9))
    for number, (requests, tokens) in enumerate(zip(drawn, sums, strict=True)):
        yield {
            "vendor": Bin(
                "vendor",
                START_MS + (first + number + 1) * BIN_MS,
                NAMES,
                requests,
                tokens,
                tokens,
                tokens * 1_200.0,
                requests // 3,
                np.zeros(len(NAMES)),
            )
        }


def feed(detector: MarketDetector, bins: Iterator[Mapping[str, Bin]]) -> list[Transition]:
    """Return all that the detector says of these bins."""
    return [said for each in bins for said in detector.observe(each)]


@few
@given(st.integers(0, 99), st.lists(weights, min_size=3, max_size=5))
def test_what_is_told_is_a_share_and_a_life(seed: int, steps: Steps) -> None:
    """Shares and intervals are in order within 0 and 1; an alert fires, then ends at most once."""
    said = feed(MarketDetector(Parameters()), market(seed, steps, 150))
    on: set[str] = set()
    for each in said:
        assert 0.0 <= each.share_low <= each.share_after <= each.share_high <= 1.0
        for share in (each.share_before, each.requests_share_before, each.requests_share_after):
            assert 0.0 <= share <= 1.0
        assert each.since_ms < each.at_ms
        assert np.isfinite([each.statistic, each.threshold]).all()
        assert (each.id in on) == (each.state is not State.FIRING), "no rejoin without an end"
        on = on | {each.id} if each.state is State.FIRING else on - {each.id}


@few
@given(st.integers(0, 99), st.lists(weights, min_size=3, max_size=4), st.integers(1, 599))
def test_a_rebuilt_detector_says_what_one_that_lived_says(seed: int, steps: Steps, at: int) -> None:
    """Killed after any bin and fed all history again, it goes on as if nothing had happened."""
    bins = list(market(seed, steps, 200))
    cut = at * len(bins) // 600
    lived = MarketDetector(Parameters())
    told = feed(lived, iter(bins[:cut]))
    last = {each.id: each for each in told}
    on = [each for each in last.values() if each.state in (State.FIRING, State.SUPPRESSED)]
    rebuilt = MarketDetector(Parameters(), open_alerts=on)
    assert rebuilt.rebuild(bins[:cut]) == []
    assert feed(rebuilt, iter(bins[cut:])) == feed(lived, iter(bins[cut:]))


@few
@given(st.integers(0, 99), weights, st.floats(0.31, 40.0))
def test_total_traffic_alone_is_no_share_change(
    seed: int, shares: tuple[float, ...], by: float
) -> None:
    """All values times any factor: nothing fires but what is told of the total."""
    detector = MarketDetector(Parameters())
    feed(detector, market(seed, [shares], 2 * BINS_PER_DAY))
    said = feed(detector, market(seed + 1, [shares], 48, first=2 * BINS_PER_DAY, by=by))
    assert {each.dimension for each in said if each.state is State.FIRING} <= {""}


@few
@given(st.integers(0, 99), st.lists(st.booleans(), min_size=48, max_size=48))
def test_bins_that_hold_rubbish_but_are_incomplete_change_nothing(
    seed: int, ok: list[bool]
) -> None:
    """Whatever incomplete bins hold, wherever they come, shares are judged without them."""
    detector = MarketDetector(Parameters())
    feed(detector, market(seed, [(5.0, 2.0, 1.0, 0.5, 0.1)], 2 * BINS_PER_DAY))
    said = []
    start = 2 * BINS_PER_DAY
    for is_ok, bins in zip(
        ok, market(seed + 1, [(5.0, 2.0, 1.0, 0.5, 0.1)], 48, first=start), strict=True
    ):
        one = bins["vendor"]
        bad = replace(one, requests=one.requests[::-1], is_complete=False)
        said += detector.observe({"vendor": one if is_ok else bad})
    assert {each.dimension for each in said} <= {""}


@given(
    st.lists(st.integers(0, 5_000), min_size=2, max_size=8),
    st.floats(0.1, 50.0),
    st.integers(0, 7),
    st.floats(2.0, 5.0),
)
def test_only_what_moved_is_far(counts: list[int], scale: float, place: int, by: float) -> None:
    """All counts times a factor are where they were, and one of many that moved is alone far."""
    expected = np.full((1, 2, len(counts) + 4), 400.0)
    expected[0, :, : len(counts)] = np.array(counts) + 300.0
    observed = expected * scale
    between = np.full((1, 3, expected.shape[-1]), 0.02**2)
    nothing_out = np.zeros(expected.shape[-1], dtype=np.bool_)
    spread = np.ones(expected.shape[-1])
    calm = residuals(observed, expected, between, spread, nothing_out)
    assert np.abs(calm.log_ratio[:, :2]).max() < 0.02
    moved = place % len(counts)
    observed = expected.copy()
    observed[:, :, moved] *= by
    far = residuals(observed, expected, between, spread, nothing_out)
    ratio = far.log_ratio[0, 0]
    if expected[0, 0, moved] < 0.4 * expected[0, 0].sum():
        assert ratio[moved] > 0.6
        assert np.abs(np.delete(ratio, moved)).max() < 0.02


def test_the_stream_gives_the_detector_what_a_world_says() -> None:
    """Through panes, windows and records, every named value keeps its sums, and nothing is lost."""
    world = make_world(4, quiet=True, days=1)
    pairs = zip(stream_bins(world), world.bins(), strict=True)
    for found, wanted in ((a["vendor"], b["vendor"]) for a, b in pairs):
        assert found.end_ms == wanted.end_ms
        for name in ("requests", "tokens", "tokens_capped", "tokens_capped_squared", "errors"):
            got = dict(zip(found.values, getattr(found, name).tolist(), strict=True))
            want = dict(zip(wanted.values, getattr(wanted, name).tolist(), strict=True))
            assert sum(got.values()) == sum(want.values())
            both = (got.keys() & want.keys()) - {OTHER}
            assert len(both) >= 25
            assert all(got[value] == want[value] for value in both)
        users = dict(zip(found.values, found.users.tolist(), strict=True))
        assert users["vendor-01"] == pytest.approx(wanted.users.max(), rel=0.2)


def test_small_evaluation_with_fixed_seeds() -> None:
    """A threshold from one quiet world keeps 1.5 times the budget on another, and finds 8 to 14 %.

    The full measurement is ``make bench-alerts``; its page is tests/benchmarks/ALERTS.md.
    """
    found, series_days = peaks_of(make_world(1, quiet=True, days=28).bins())
    parameters = replace(
        Parameters(), thresholds={DIMENSION: threshold(found, series_days, BUDGET)}
    )
    settled_ms = START_MS + 14 * BINS_PER_DAY * BIN_MS
    quiet = alarms_of(transitions_of(make_world(2, quiet=True, days=28).bins(), parameters))
    false = sum(each.at_ms > settled_ms for each in quiet)
    assert false <= 1.5 * BUDGET * SERIES * 14 / 28
    world = make_world(3, days=28 + 14, happenings={"8 to 14 %": 20})
    result = score(world, alarms_of(transitions_of(world.bins(), parameters)))
    assert len(result.delays()) == 20
    assert result.within(30) >= 0.95
