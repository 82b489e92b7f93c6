"""The detector of sudden share changes: what it says, and when it says nothing."""

from dataclasses import replace

import numpy as np
import pytest

from streams.detection import (
    BIN_MS,
    MarketDetector,
    Parameters,
)
from tests.detection_market import (
    CHANGE,
    DAY,
    FIRING,
    HOUR,
    REBASELINED,
    RESOLVED,
    SHARES,
    START_MS,
    Market,
    feed,
    make_bin,
    told,
    warm,
)


def test_a_change_is_told_once_with_its_size_and_its_beginning() -> None:
    """A share that doubles is one alert: on its own value, right in size, time and interval."""
    market = Market()
    detector = warm(market)
    market.change("d", 2.0)
    began_ms = START_MS + market.number * BIN_MS
    said = feed(detector, market.bins(3 * HOUR))
    assert told(said) == [(CHANGE, FIRING, "d", "up")]
    (alert,) = said
    assert alert.since_ms == began_ms
    assert alert.at_ms <= began_ms + 2 * BIN_MS
    assert alert.share_before == pytest.approx(0.08, abs=0.01)
    assert alert.requests_share_before == pytest.approx(0.08, abs=0.01)
    (now,) = detector.open_alerts
    assert now.id == alert.id
    assert now.share_after == pytest.approx(market.shares["d"], abs=0.01)
    assert now.share_low < market.shares["d"] < now.share_high


def test_a_change_that_is_undone_is_resolved() -> None:
    """15 minutes after the share is back the alert ends, and nothing is told of the way back."""
    market = Market()
    detector = warm(market)
    before = dict(market.shares)
    market.change("c", 0.3)
    assert told(feed(detector, market.bins(HOUR))) == [(CHANGE, FIRING, "c", "down")]
    market.shares = before
    back = market.number
    said = feed(detector, market.bins(4 * HOUR))
    assert told(said) == [(CHANGE, RESOLVED, "c", "down")]
    assert said[0].at_ms <= START_MS + (back + 8) * BIN_MS


def test_a_change_that_stays_becomes_the_new_normal_after_six_hours() -> None:
    """It is told, rebaselined 6 hours later, and then neither told again nor missed if undone."""
    market = Market()
    detector = warm(market)
    before = dict(market.shares)
    market.change("b", 1.6)
    fired, rebaselined = feed(detector, market.bins(12 * HOUR))
    assert told([fired, rebaselined]) == [
        (CHANGE, FIRING, "b", "up"),
        (CHANGE, REBASELINED, "b", "up"),
    ]
    assert rebaselined.at_ms - fired.at_ms == 6 * HOUR * BIN_MS
    market.shares = before
    assert told(feed(detector, market.bins(HOUR))) == [(CHANGE, FIRING, "b", "down")]


def test_a_change_that_comes_back_within_an_hour_joins_its_alert() -> None:
    """Fired, resolved, fired again: one id."""
    market = Market()
    detector = warm(market)
    before = dict(market.shares)
    said = []
    for _ in range(2):
        market.change("c", 0.2)
        said += feed(detector, market.bins(6))
        market.shares = before
        said += feed(detector, market.bins(9))
    assert [each.state for each in said] == [FIRING, RESOLVED, FIRING, RESOLVED]
    assert len({each.id for each in said}) == 1


def test_a_change_of_one_is_not_told_of_the_others() -> None:
    """When the largest vendor halves every other share grows by a third; only it is told."""
    market = Market()
    detector = warm(market)
    market.change("a", 0.5)
    assert {each.value for each in feed(detector, market.bins(3 * HOUR))} == {"a"}


def test_a_small_change_is_not_told() -> None:
    """A share of a half whose weight grows by 9 % is six deviations, and not worth an alert."""
    market = Market()
    market.requests = 20_000.0
    detector = warm(market)
    market.change("a", 1.09)
    assert feed(detector, market.bins(4 * HOUR)) == []


def test_longer_answers_are_told() -> None:
    """Tokens per request of one value move by half: its share of tokens does, its requests do not."""
    market = Market()
    detector = warm(market)
    said = []
    for bins in market.bins(2 * HOUR):
        one = bins["vendor"]
        longer = np.where(np.array(one.values) == "c", 1.5, 1.0)
        said += detector.observe(
            {
                "vendor": replace(
                    one,
                    tokens=one.tokens * longer,
                    tokens_capped=one.tokens_capped * longer,
                    tokens_capped_squared=one.tokens_capped_squared * longer**2,
                )
            }
        )
    assert told(said) == [(CHANGE, FIRING, "c", "up")]
    assert said[0].requests_share_after == pytest.approx(0.15, abs=0.02)


def test_nothing_is_told_on_the_first_day() -> None:
    """A series is not judged before it has been seen for a day."""
    market = Market()
    detector = MarketDetector(Parameters())
    assert feed(detector, market.bins(DAY // 2)) == []
    market.change("d", 3.0)
    assert feed(detector, market.bins(DAY // 4)) == []


def test_a_value_with_few_requests_is_judged_as_part_of_other() -> None:
    """A value with one request a bin has no series of its own; a row `other` is judged with it."""
    market = Market({**SHARES, "tiny": 0.0004, "other": 0.01})
    detector = warm(market)
    names = detector.series("vendor")
    assert "tiny" not in names
    assert set(names) == {"other", *SHARES}
    market.change("other", 3.0)
    assert told(feed(detector, market.bins(HOUR)))[:1] == [(CHANGE, FIRING, "other", "up")]


def test_a_tail_that_varies_moves_nobody_s_tokens() -> None:
    """Forty small values of heavy-tailed requests, and an ``other`` of one request without tokens to
    speak of: how many requests the tail's tokens stand for is told by all of it.
    """
    market, rng = Market(), np.random.default_rng(5)
    detector = MarketDetector(Parameters(effect_min=0.05))
    largest = 0.0
    for number, bins in enumerate(market.bins(4 * DAY)):
        drawn = bins["vendor"]
        tail = np.append((rng.random(40) < 0.5).astype(np.float64), 1.0)
        tokens = tail * np.append(rng.lognormal(7.0, 1.5, 40), 20.0)
        names = (*(f"tail-{at}" for at in range(40)), "other")
        kept = tail > 0
        requests, tokens = tail[kept], tokens[kept]
        with_tail = replace(
            drawn,
            values=(*drawn.values, *np.array(names)[kept].tolist()),
            requests=np.append(drawn.requests, requests),
            tokens=np.append(drawn.tokens, tokens),
            tokens_capped=np.append(drawn.tokens_capped, tokens),
            tokens_capped_squared=np.append(drawn.tokens_capped_squared, tokens**2),
            users=np.append(drawn.users, requests),
            errors=np.append(drawn.errors, 0 * requests),
        )
        detector.observe({"vendor": with_tail})
        if number >= 2 * DAY:
            largest = max(largest, float(np.abs(detector.readings["vendor"].statistic[1:]).max()))
    assert largest < 5.0, "of the values that did not change"


def test_a_small_value_that_bursts_is_told_under_its_own_name() -> None:
    """A value of the tail that takes 5 % is taken up at once."""
    market = Market({**SHARES, "tiny": 0.0005, "other": 0.01})
    detector = warm(market)
    market.change("tiny", 100.0)
    said = feed(detector, market.bins(HOUR))
    assert (CHANGE, FIRING, "tiny", "up") in told(said)
    assert {each.value for each in said} == {"tiny"}


def test_a_value_that_falls_out_of_the_top_is_not_a_change() -> None:
    """Its row goes into `other` for a while, at the size of the smallest row: nothing happened."""
    market = Market({**SHARES, "e": 0.01, "f": 0.0105, "other": 0.01})
    detector = warm(market)
    said = []
    for number, bins in enumerate(market.bins(6 * HOUR)):
        one = bins["vendor"]
        rows = dict(zip(one.values, one.requests.tolist(), strict=True))
        if number % 3:
            smaller = min(("e", "f"), key=lambda name: rows.get(name, 0.0))
            rows["other"] += rows.pop(smaller)
        said += detector.observe({"vendor": make_bin(market.number, rows)})
    assert said == []


def test_a_large_value_that_vanishes_from_the_top_is_told() -> None:
    """It may have as many requests as the smallest row at most, which is far from what it had."""
    market = Market({**SHARES, "other": 0.01})
    detector = warm(market)
    market.shares["c"] = 0.0
    assert (CHANGE, FIRING, "c", "down") in told(feed(detector, market.bins(HOUR)))


def test_series_are_bounded() -> None:
    """Beyond `series_max` values those not seen for the longest are forgotten, never the open ones."""
    market = Market()
    detector = warm(market, parameters=Parameters(series_max=12))
    market.change("d", 2.5)
    assert told(feed(detector, market.bins(6))) == [(CHANGE, FIRING, "d", "up")]
    for bins in market.bins(3):
        one = bins["vendor"]
        rows = dict(zip(one.values, one.requests.tolist(), strict=True))
        rows |= {f"new-{market.number}-{place}": 1.0 for place in range(5)}
        detector.observe({"vendor": make_bin(market.number, rows)})
    assert "d" in detector.series("vendor")
    assert len(detector._shares["vendor"].table.names) <= 12
