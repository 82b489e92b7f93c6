"""The other kinds of alerts, and what silences what: jumps, gaps, outages, vendors, new models."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from streams.detection import (
    BIN_MS,
    Bin,
    Kind,
    MarketDetector,
    Parameters,
    Relations,
    State,
    Transition,
)
from streams.detection.new_models import wilson_low
from tests.detection_market import (
    CHANGE,
    DAY,
    FIRING,
    HOUR,
    REQUESTS,
    RESOLVED,
    START_MS,
    Market,
    feed,
    make_bin,
    told,
    warm,
)

# -- all traffic


def test_a_jump_of_all_traffic_is_its_own_alert() -> None:
    """2.5 times the traffic at the same shares: told once, resolved, no share alert."""
    market = Market()
    detector = warm(market)
    market.requests *= 2.5
    assert told(feed(detector, market.bins(HOUR))) == [(Kind.TOTAL_JUMP, FIRING, "", "up")]
    market.requests /= 2.5
    assert told(feed(detector, market.bins(HOUR))) == [(Kind.TOTAL_JUMP, RESOLVED, "", "up")]


def test_a_share_alert_during_a_jump_is_suppressed_and_told_after_it() -> None:
    """The jump explains it as long as it lasts and half an hour more; then it stands for itself."""
    market = Market()
    detector = warm(market)
    market.requests *= 2.5
    (jump,) = feed(detector, market.bins(3))
    market.change("d", 2.5)
    (silenced,) = feed(detector, market.bins(HOUR))
    assert (silenced.state, silenced.suppressed_by) == (State.SUPPRESSED, jump.id)
    market.requests /= 2.5
    said = feed(detector, market.bins(HOUR))
    assert told(said) == [
        (Kind.TOTAL_JUMP, RESOLVED, "", "up"),
        (CHANGE, FIRING, "d", "up"),
    ]
    assert said[1].id == silenced.id


def test_a_drop_of_all_traffic_holds_the_shares() -> None:
    """With a tenth of the traffic, all of one vendor, only the drop is told."""
    market = Market()
    detector = warm(market)
    said = []
    for _ in range(HOUR):
        said += detector.observe({"vendor": make_bin(market.number, {"a": REQUESTS * 0.1})})
        market.number += 1
    assert told(said) == [(Kind.TOTAL_DROP, FIRING, "", "down")]
    assert told(feed(detector, market.bins(2 * HOUR))) == [(Kind.TOTAL_DROP, RESOLVED, "", "down")]


def test_no_traffic_at_all_is_a_drop() -> None:
    """Windows without rows are told as a drop."""
    market = Market()
    detector = warm(market)
    assert told(detector.observe({"vendor": make_bin(market.number, {})})) == [
        (Kind.TOTAL_DROP, FIRING, "", "down")
    ]


# -- data that do not come


def test_incomplete_bins_hold_everything() -> None:
    """Three bins without complete data are told as lag, whatever they hold; the next one ends it."""
    market = Market()
    detector = warm(market)
    said = []
    for _ in range(5):
        rows = {"a": 5.0}
        said += detector.observe({"vendor": make_bin(market.number, rows, is_complete=False)})
        market.number += 1
    assert told(said) == [(Kind.INGEST_LAG, FIRING, "", "")]
    assert said[0].at_ms == START_MS + (market.number - 2) * BIN_MS
    assert told(feed(detector, market.bins(3 * HOUR))) == [(Kind.INGEST_LAG, RESOLVED, "", "")]


def test_one_or_two_missing_bins_are_nothing() -> None:
    """A gap of two bins is neither a lag nor a change."""
    market = Market()
    detector = warm(market)
    market.number += 2
    assert feed(detector, market.bins(2 * HOUR)) == []


def test_a_longer_gap_is_told_when_it_ends() -> None:
    """Bins that never came are counted at the next that does."""
    market = Market()
    detector = warm(market)
    market.number += 30
    assert told(feed(detector, market.bins(2 * HOUR))) == [
        (Kind.INGEST_LAG, FIRING, "", ""),
        (Kind.INGEST_LAG, RESOLVED, "", ""),
    ]


def test_an_old_bin_is_ignored() -> None:
    """A bin end that was observed or held is not taken again."""
    market = Market()
    detector = warm(market)
    assert detector.hold(START_MS + market.number * BIN_MS) == []
    market.number -= 3
    market.change("d", 10.0)
    assert feed(detector, market.bins(3)) == []
    assert detector.readings["vendor"].statistic.any() in (True, False)


def test_bins_of_different_times_are_refused() -> None:
    """One call is one bin end."""
    bins = {"vendor": make_bin(0, {"a": 1.0}), "model": make_bin(1, {"a": 1.0})}
    with pytest.raises(ValueError, match="same time"):
        MarketDetector(Parameters()).observe(bins)


# -- providers, vendors and their models


def _with_provider(market: Market, providers: Mapping[str, float]) -> Iterator[dict[str, Bin]]:
    for bins in market.bins(DAY):
        total = float(bins["vendor"].requests.sum())
        rows = {name: float(market.rng.poisson(total * part)) for name, part in providers.items()}
        yield bins | {"provider": make_bin(market.number, rows, dimension="provider")}


def test_an_outage_of_a_provider_silences_what_follows_from_it() -> None:
    """The provider goes down and takes most of a vendor along: one alert that fires, of its kind."""
    market = Market()
    detector = MarketDetector(Parameters())
    parts = {"p": 0.6, "q": 0.3, "r": 0.1}
    for _ in range(2):
        assert feed(detector, _with_provider(market, parts)) == []
    market.change("c", 0.1)
    said = feed(detector, _first(_with_provider(market, {"p": 0.7, "q": 0.2, "r": 0.004}), 6))
    firing = [each for each in said if each.state is FIRING]
    assert [each.value for each in firing if each.kind is Kind.PROVIDER_OUTAGE] == ["r"]
    outage = next(each for each in firing if each.kind is Kind.PROVIDER_OUTAGE)
    silenced = [each for each in said if each.state is State.SUPPRESSED]
    assert [(each.dimension, each.value) for each in silenced] == [("vendor", "c")]
    assert silenced[0].suppressed_by == outage.id


def _first(bins: Iterator[dict[str, Bin]], count: int) -> Iterator[dict[str, Bin]]:
    return (each for _, each in zip(range(count), bins, strict=False))


def test_a_provider_that_answers_with_errors_has_an_outage() -> None:
    """Two of five requests fail where one of fifty did: told, and over when they succeed again."""
    market = Market({"p": 0.7, "q": 0.3})
    detector = MarketDetector(Parameters())
    said: list[Transition] = []
    for number, bins in enumerate(market.bins(2 * DAY + 30, "provider")):
        one = bins["provider"]
        is_bad = 2 * DAY <= number < 2 * DAY + 9
        part = np.where(np.array(one.values) == "q", 0.4 if is_bad else 0.02, 0.02)
        said += detector.observe({"provider": replace(one, errors=one.requests * part)})
    assert told(said) == [
        (Kind.PROVIDER_OUTAGE, FIRING, "q", "down"),
        (Kind.PROVIDER_OUTAGE, RESOLVED, "q", "down"),
    ]


def test_a_vendor_alert_silences_those_of_its_models_and_regions() -> None:
    """Same vendor and direction: suppressed by the vendor's alert. Another vendor's model: not."""
    market = Market({"x/1": 0.3, "x/2": 0.1, "y/1": 0.35, "z/1": 0.25})
    relations = Relations(lambda name: name.partition("/")[0])
    detector = MarketDetector(Parameters(), relations=relations)

    def both(count: int) -> Iterator[dict[str, Bin]]:
        for bins in market.bins(count, "model"):
            one = bins["model"]
            rows: dict[str, float] = {}
            for value, requests in zip(one.values, one.requests.tolist(), strict=True):
                rows[value.partition("/")[0]] = rows.get(value.partition("/")[0], 0.0) + requests
            regions = {f"{vendor}|eu": requests for vendor, requests in rows.items()}
            yield bins | {
                "vendor": make_bin(market.number, rows),
                "vendor_region": make_bin(market.number, regions, dimension="vendor_region"),
            }

    assert feed(detector, both(2 * DAY)) == []
    market.change("x/1", 0.2)
    market.change("x/2", 0.2)
    said = feed(detector, both(HOUR))
    assert [(each.dimension, each.value) for each in said if each.state is FIRING] == [
        ("vendor", "x")
    ]
    silenced = {each.value: each.suppressed_by for each in said if each.state is State.SUPPRESSED}
    assert silenced == dict.fromkeys(("x/1", "x/2", "x|eu"), said[0].id)


def test_a_vendor_alert_silences_that_of_an_origin_group_that_it_moves() -> None:
    """Its own group's, if it makes up most of that change. What it can't have moved is told."""
    market = Market({"x": 0.3, "y": 0.35, "z": 0.35})
    groups = {"x": "chinese_open", "y": "proprietary", "z": "other_open"}
    relations = Relations(origins_of_vendor=lambda vendor: {groups[vendor]})
    detector = MarketDetector(Parameters(), relations=relations)
    before = dict(market.shares)

    def both(count: int, origins: Mapping[str, float] | None = None) -> Iterator[dict[str, Bin]]:
        """Origin groups are what their vendors are, or something else altogether."""
        for bins in market.bins(count):
            one = bins["vendor"]
            requests = one.requests.tolist()
            rows = {groups[v]: n for v, n in zip(one.values, requests, strict=True)}
            if origins:
                rows = {group: share * REQUESTS for group, share in origins.items()}
            yield bins | {"origin": make_bin(market.number, rows, dimension="origin")}

    def told_of(said: Sequence[Transition], state: State) -> set[str]:
        return {each.value for each in said if each.state is state}

    assert feed(detector, both(2 * DAY)) == []
    market.change("x", 0.3)
    said = feed(detector, both(HOUR))
    assert told_of(said, FIRING) == {"x"}
    assert told_of(said, State.SUPPRESSED) == {"chinese_open"}

    market.shares = dict(before)
    feed(detector, both(DAY))
    market.change("z", 0.7)
    much_more = {"proprietary": 0.65, "other_open": 0.05, "chinese_open": 0.3}
    said = feed(detector, both(HOUR, much_more))
    assert {"z", "other_open"} <= told_of(said, FIRING)
    assert not told_of(said, State.SUPPRESSED)

    market.shares = dict(before)
    feed(detector, both(DAY))
    market.change("z", 0.3)
    another = {"proprietary": 0.35, "other_open": 0.6, "chinese_open": 0.05}
    said = feed(detector, both(HOUR, another))
    assert {"z", "chinese_open"} <= told_of(said, FIRING)
    assert not told_of(said, State.SUPPRESSED)


def test_a_new_model_is_told_as_it_passes_each_level() -> None:
    """A model first seen now with 3 % of requests passes 0.5 % and 2 %; it is over when it is old."""
    market = Market()
    detector = MarketDetector(Parameters())
    assert feed(detector, market.bins(3 * DAY, "model")) == []
    market.shares["new"] = 0.012
    said = feed(detector, market.bins(2 * HOUR, "model"))
    market.shares["new"] = 0.035
    said += feed(detector, market.bins(2 * HOUR, "model"))
    new = [each for each in said if each.kind is Kind.NEW_MODEL]
    assert [(each.value, each.threshold) for each in new] == [("new", 0.005), ("new", 0.02)]
    assert len({each.id for each in new}) == 1
    assert new[1].requests_share_after == pytest.approx(0.03, abs=0.01)
    later = feed(detector, market.bins(2 * DAY, "model"))
    assert (Kind.NEW_MODEL, RESOLVED, "new", "up") in told(later)


def test_models_of_the_first_two_days_are_not_new() -> None:
    """Before two days of history nobody knows what is new."""
    market = Market()
    detector = MarketDetector(Parameters())
    feed(detector, market.bins(DAY, "model"))
    market.shares["late"] = 0.2
    assert feed(detector, market.bins(HOUR, "model")) == []


def test_wilson_low() -> None:
    """Newcombe 1998, table I, 81 of 263: 0.2553 to 0.3662."""
    assert wilson_low(81, 263) == pytest.approx(0.2553, abs=1e-4)
    assert wilson_low(0, 0) == 0.0
