"""The detector of sudden share changes: what it says, and when it says nothing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from deploy.local.published import openrouter_days
from streams.detection import (
    BIN_MS,
    Bin,
    Kind,
    MarketDetector,
    Parameters,
    Relations,
    State,
    Transition,
    alert_id,
    calibrate,
)
from streams.detection.calibration import threshold
from streams.detection.new_models import wilson_low
from streams.detection.seasons import DAY_MS, SLOT_MS, Seasons
from tests.benchmarks.alerts.real_market import WANTED

HOUR = 12
DAY = 24 * HOUR
START_MS = 1_767_571_200_000
SHARES = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.08, "e": 0.02}
REQUESTS = 2_000


def make_bin(
    number: int,
    requests: Mapping[str, float],
    *,
    dimension: str = "vendor",
    tokens_each: float = 1_000.0,
    errors: Mapping[str, float] | None = None,
    is_complete: bool = True,
) -> Bin:
    """Return a bin in which every request has as many tokens, give or take a spread of 1."""
    counts = np.array(list(requests.values()), dtype=np.float64)
    return Bin(
        dimension,
        START_MS + (number + 1) * BIN_MS,
        tuple(requests),
        counts,
        counts * tokens_each,
        counts * tokens_each,
        2.0 * counts * tokens_each**2,
        np.ceil(counts / 3),
        np.array([(errors or {}).get(value, 0.0) for value in requests]),
        is_complete,
    )


class Market:
    """Bins of a made market, with Poisson noise from a seed; shares are changed by the test."""

    def __init__(self, shares: Mapping[str, float] = SHARES, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.shares = dict(shares)
        self.requests = float(REQUESTS)
        self.number = 0

    def bins(self, count: int, dimension: str = "vendor") -> Iterator[dict[str, Bin]]:
        """Return the next bins."""
        for _ in range(count):
            drawn = {
                value: float(self.rng.poisson(self.requests * share))
                for value, share in self.shares.items()
            }
            drawn = {value: requests for value, requests in drawn.items() if requests}
            yield {dimension: make_bin(self.number, drawn, dimension=dimension)}
            self.number += 1

    def change(self, value: str, factor: float) -> None:
        """Multiply one value's weight; the others share the rest as before."""
        weights = {**self.shares, value: self.shares[value] * factor}
        total = sum(weights.values())
        self.shares = {name: weight / total for name, weight in weights.items()}


def feed(detector: MarketDetector, bins: Iterator[dict[str, Bin]]) -> list[Transition]:
    """Return all that the detector says of these bins."""
    return [said for each in bins for said in detector.observe(each)]


def warm(market: Market, days: float = 2, parameters: Parameters | None = None) -> MarketDetector:
    """Return a detector that has seen a quiet market; it must have said nothing."""
    detector = MarketDetector(parameters or Parameters())
    assert feed(detector, market.bins(int(days * DAY))) == []
    return detector


def told(said: Sequence[Transition]) -> list[tuple[Kind, State, str, str]]:
    """Return what matters of transitions."""
    return [(each.kind, each.state, each.value, each.direction) for each in said]


FIRING, RESOLVED, REBASELINED = State.FIRING, State.RESOLVED, State.REBASELINED
CHANGE = Kind.SHARE_CHANGE


# -- share changes


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


# -- after a restart


def test_rebuild_agrees_with_what_others_were_told() -> None:
    """Fed the same history, a new detector has the same alert on and has nothing to add."""
    market = Market()
    history = list(market.bins(2 * DAY))
    market.change("d", 2.0)
    history += market.bins(HOUR)
    lived = MarketDetector(Parameters())
    (alert,) = feed(lived, iter(history))
    rebuilt = MarketDetector(Parameters(), open_alerts=[alert])
    assert rebuilt.rebuild(history) == []
    assert [each.id for each in rebuilt.open_alerts] == [alert.id]


def test_rebuild_tells_what_nobody_was_told_and_ends_what_is_over() -> None:
    """An alert that died with its worker is told, one that is not on any more is resolved."""
    market = Market()
    history = list(market.bins(2 * DAY))
    market.change("d", 2.0)
    history += market.bins(HOUR)
    gone = Transition(CHANGE, FIRING, "vendor", "a", "up", START_MS, START_MS + BIN_MS)
    rebuilt = MarketDetector(Parameters(), open_alerts=[gone])
    assert told(rebuilt.rebuild(history)) == [
        (CHANGE, RESOLVED, "a", "up"),
        (CHANGE, FIRING, "d", "up"),
    ]


def test_rebuild_keeps_the_identity_of_an_alert_that_is_on() -> None:
    """Told with another beginning (other parameters, shorter history), it keeps that one's id."""
    market = Market()
    history = list(market.bins(2 * DAY))
    market.change("d", 2.0)
    history += market.bins(HOUR)
    (alert,) = feed(MarketDetector(Parameters()), iter(history))
    other = replace(alert, since_ms=alert.since_ms - BIN_MS)
    rebuilt = MarketDetector(Parameters(), open_alerts=[other])
    assert rebuilt.rebuild(history) == []
    assert [each.id for each in rebuilt.open_alerts] == [other.id]


# -- seasons


def test_a_daily_season_is_learnt_from_the_fifth_day_on() -> None:
    """A share that swings every day is expected to, with its mean unchanged; one odd day is not."""
    seasons = Seasons(1)
    day_0 = START_MS // DAY_MS
    for day in range(8):
        for slot in range(48):
            swing = 0.0 if day == 6 else 0.5 * np.sin(2 * np.pi * (slot + 0.5) / 48)
            end_ms = (day_0 + day) * DAY_MS + (slot + 1) * SLOT_MS
            seasons.store(end_ms, np.full((2, 1), 3.0 + swing))
        midnight_ms = (day_0 + day + 1) * DAY_MS
        seasons.learn(midnight_ms)
        size = 0.5 if day >= 4 else 0.0
        for hour in range(24):
            expected = size * np.sin(2 * np.pi * hour / 24)
            found = seasons.at(midnight_ms + hour * 3_600_000)[0, 0]
            assert found == pytest.approx(expected, abs=0.01)


def test_what_fades_over_a_week_is_not_a_season() -> None:
    """A trend in the last week leaves the weekly part of the season nearly flat."""
    seasons = Seasons(1)
    day_0 = START_MS // DAY_MS
    for slot in range(28 * 48):
        end_ms = day_0 * DAY_MS + (slot + 1) * SLOT_MS
        seasons.store(end_ms, np.full((2, 1), -max(slot / 48 - 21, 0) * 0.1))
    seasons.learn((day_0 + 28) * DAY_MS)
    values = [seasons.at((day_0 + 28) * DAY_MS + hour * 3_600_000)[0, 0] for hour in range(168)]
    assert max(np.abs(values)) < 0.06


# -- parameters


def test_parameters_survive_json_and_have_a_version() -> None:
    """Equal values have equal versions, whatever the order of thresholds."""
    one = Parameters(thresholds={"vendor": 4.0, "model": 5.0})
    two = Parameters.from_dict(one.as_dict())
    assert two == one
    assert two.version == one.version != Parameters().version
    with pytest.raises(ValueError, match="unknown parameters: nothing"):
        Parameters.from_dict({"nothing": 1})


def test_alert_id_is_of_what_does_not_change() -> None:
    """All transitions of an alert have its id; another beginning is another alert."""
    one = Transition(CHANGE, FIRING, "vendor", "a", "up", 0, 300_000)
    assert one.id == replace(one, state=RESOLVED, at_ms=900_000, statistic=3.0).id
    assert one.id == alert_id(CHANGE, "vendor", "a", "up", 0)
    assert one.id != alert_id(CHANGE, "vendor", "a", "up", 1)


def test_calibration_gives_what_the_budget_allows() -> None:
    """1,000 peaks with a normal tail in 280 series-days, 7 allowed at a budget of 1."""
    rng = np.random.default_rng(1)
    peaks = np.sqrt(9.0 + 2.0 * rng.exponential(size=1_000)).tolist()
    found = threshold(peaks, 280.0, 1.0)
    # P(peak > h) = exp(-(h^2 - 9) / 2) = 7 / 1000
    assert found == pytest.approx(np.sqrt(9.0 + 2.0 * np.log(1_000 / 7)), rel=0.05)
    assert threshold(peaks, 280.0, 4.0) < found


def test_calibrate_sets_thresholds_of_what_it_saw() -> None:
    """A quiet history gives a threshold near that of a normal variable; none is refused."""
    market = Market()
    parameters = calibrate(market.bins(6 * DAY), Parameters())
    assert set(parameters.thresholds) == {"vendor"}
    assert 3.5 <= parameters.thresholds["vendor"] <= 5.5
    with pytest.raises(ValueError, match="two days"):
        calibrate(market.bins(DAY), Parameters())
    with pytest.raises(ValueError, match="budget"):
        calibrate([], Parameters(), 0.0)


def test_a_bin_with_a_short_column_is_refused() -> None:
    """Columns are as long as the values."""
    one = make_bin(0, {"a": 1.0, "b": 2.0})
    with pytest.raises(ValueError, match="tokens"):
        replace(one, tokens=one.tokens[:1])


def test_the_table_by_hand_is_what_was_published() -> None:
    """Every share of REAL_MARKET.md's table of launches and withdrawals equals the shipped file's."""
    days = {day.date: day for day in openrouter_days()}
    for each in WANTED:
        first = date.fromisoformat(each.date) - timedelta(days=1)
        for offset, share in enumerate(each.shares):
            day = days.get(str(first + timedelta(days=offset)))
            tokens = dict(zip(day.models, day.tokens, strict=True)) if day is not None else {}
            published = 100 * tokens.get(each.model, 0) / max(sum(tokens.values()), 1)
            assert share == pytest.approx(published, abs=0.0051), (each, offset)
