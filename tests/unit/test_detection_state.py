"""What the detector keeps: after a restart, of seasons, in parameters and thresholds."""

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pytest

from deploy.local.published import openrouter_days
from streams.detection import (
    BIN_MS,
    MarketDetector,
    Parameters,
    Transition,
    alert_id,
    calibrate,
)
from streams.detection.calibration import threshold
from streams.detection.seasons import DAY_MS, SLOT_MS, Seasons
from tests.benchmarks.alerts.real_market import WANTED
from tests.detection_market import (
    CHANGE,
    DAY,
    FIRING,
    HOUR,
    RESOLVED,
    START_MS,
    Market,
    feed,
    make_bin,
    told,
)

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
