"""All series of one dimension, bin after bin: baseline, variance and how far each is from its own past."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from streams.detection.bins import OTHER, Bin, Floats
from streams.detection.parameters import BIN_MS, HOUR_MS, Parameters
from streams.detection.residuals import Residuals, residuals
from streams.detection.seasons import DAILY_DAYS_MIN, DAY_MS, SLOT_MS, Seasons

Places = npt.NDArray[np.int64]

LENGTHS = np.array([1, 2, 3, 6, 12, 24])
"""Windows that are tested, in bins: 5 minutes to 2 hours."""
LONGEST = int(LENGTHS[-1])
QUARTER_HOUR, HALF_HOUR, HOUR = 2, 3, 4
"""Places of these lengths in ``LENGTHS``."""
REQUESTS, TOKENS, LENGTH = 0, 1, 2
SIGNALS = 3

_BINS_PER_HOUR = HOUR_MS // BIN_MS
_BINS_PER_DAY = DAY_MS // BIN_MS
LEVEL_HALF_LIFE_HOURS = 6.0
SETTLED_DAYS = 14
_WARM_UP_BINS = _BINS_PER_DAY
_FLOOR_VARIANCE = 0.01**2
_SCALE_FACTOR = 1.2533
"""Square root of pi / 2: makes a mean of absolute values of a normal variable its deviation."""
_SCALE_MIN = 0.5
"""Sampling alone gives 1; much less is a lack of variety, not of noise."""
_CLIP_SD = 4.0
_YOUNG_LEVEL_BINS = 12
_LEARN_AFRESH_BINS = 24
"""A series that is taken up anew finds its level as if it had been known for two hours."""
_BURST_BINS, _BURST_FACTOR = 3, 3.0
"""A series is taken up at once when its last bins have so many times the fewest requests."""
_DEMOTE_FACTOR = 0.6
_GAP_BINS_MAX = 12
TAIL = 0
"""Place of ``other``: the row of that name and all series that are too small to be tested alone."""


@dataclass
class State:
    """Arrays whose last axis is the series; ``[..., series]``."""

    level: Floats  # [2] log weight
    season: Floats  # [2] of the current bin
    recent: Floats  # [] requests of about the last three bins
    mean_share: Floats  # [2] mean share over a day, for series that are not tested
    mean_requests: Floats  # [] per bin, over a day
    mean_capped: Floats  # [] per bin, over a day
    mean_squared: Floats
    mean_counted: Floats  # [] requests over the same bins as the three means here
    mean_tokens: Floats
    between: Floats  # [lengths, 3]
    scale: Floats  # [lengths, 3]
    observed: Floats  # [2 * LONGEST, 2] every bin twice, so that a window is one slice
    expected: Floats
    counted: Floats  # [2 * LONGEST, 2] requests and true tokens, the same way
    age: Floats  # [] bins since first seen
    level_age: Floats  # [] bins its level has been learnt from
    run: Floats  # [] bins since its windows were cut
    last_seen_ms: Floats
    tested: Floats  # [] 1 if tested alone (or the tail)
    frozen: Floats  # [] 1 while an alert is on: nothing is learnt


def _empty_state() -> State:
    shapes = {
        "level": (2,),
        "season": (2,),
        "mean_share": (2,),
        "between": (len(LENGTHS), SIGNALS),
        "scale": (len(LENGTHS), SIGNALS),
        "observed": (2 * LONGEST, 2),
        "expected": (2 * LONGEST, 2),
        "counted": (2 * LONGEST, 2),
    }
    return State(**{each.name: np.zeros((*shapes.get(each.name, ()), 0)) for each in fields(State)})


@dataclass(frozen=True)
class Reading:
    """What one bin says of the series that are tested.

    Attributes:
        places: Where the tested series are in the table; the last axis of all that follows.
        statistic: Largest deviation that is also a large enough change, signed; 0 if there is none.
        residuals: All windows and signals behind it.
        deviation: Their z, divided by its own usual spread, ``[lengths, 3, tested]``.
        share_before: Expected share of requests and of capped tokens, ``[2, tested]``.
    """

    places: Places
    statistic: Floats
    residuals: Residuals
    deviation: Floats
    share_before: Floats


class SeriesTable:
    """The series of one dimension. ``step`` takes a bin; the caller decides what is an alert."""

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self.names: list[str] = []
        self._places: dict[str, int] = {}
        self.state = _empty_state()
        self._seasons = Seasons()
        self._at = 0
        self._last_ms = 0
        self._totals = np.zeros((2 * LONGEST, 2))
        self._add([OTHER])
        self.state.tested[TAIL] = 1.0

    def place(self, name: str) -> int | None:
        """Return where a series is, if it is known."""
        return self._places.get(name)

    def step(self, one: Bin) -> Reading:
        """Take the next bin: compare it with the past, then learn from it."""
        if self._last_ms and one.end_ms - self._last_ms > _GAP_BINS_MAX * BIN_MS:
            self.state.run[:] = 0
        self._turn_days(one.end_ms)
        raw, tokens = self._columns(one)
        self._promote(raw)
        places = np.flatnonzero(self.state.tested)
        observed, expected, share = self._expectations(one, raw, places)
        self._push(observed, expected, np.stack([raw[0], tokens]), places)
        reading = self._read(places, share)
        self._learn(one, raw, tokens, reading)
        self._last_ms = one.end_ms
        return reading

    # -- one bin as columns of the known series

    def _columns(self, one: Bin) -> tuple[Floats, Floats]:
        """Return requests, capped tokens and their squares ``[3, series]``, and true tokens."""
        unknown = [name for name in one.values if name not in self._places]
        known = [place for name in one.values if (place := self._places.get(name)) is not None]
        self.state.last_seen_ms[known] = one.end_ms
        if unknown:
            self._make_room(len(unknown))
            self._add(unknown)
        places = [self._places[name] for name in one.values]
        raw = np.zeros((3, len(self.names)))
        raw[:, places] = one.requests, one.tokens_capped, one.tokens_capped_squared
        tokens = np.zeros(len(self.names))
        tokens[places] = one.tokens
        self.state.last_seen_ms[places] = one.end_ms
        return raw, tokens

    def _make_room(self, wanted: int) -> None:
        over = len(self.names) + wanted - self._parameters.series_max
        if over <= 0:
            return
        seen_ms = self.state.last_seen_ms
        may_go = (seen_ms < seen_ms.max()) & (self.state.frozen == 0)
        may_go[TAIL] = False
        gone = np.flatnonzero(may_go)
        gone = gone[np.argsort(seen_ms[gone], kind="stable")][:over]
        self._resize(np.setdiff1d(np.arange(len(self.names)), gone), [])

    def _add(self, names: list[str]) -> None:
        self._resize(np.arange(len(self.names)), names)

    def _resize(self, kept: Places, names: list[str]) -> None:
        self.names = [self.names[place] for place in kept] + names
        self._places = {name: place for place, name in enumerate(self.names)}
        for each in fields(State):
            old = getattr(self.state, each.name)
            new = np.zeros((*old.shape[:-1], len(names)))
            setattr(self.state, each.name, np.concatenate([old[..., kept], new], axis=-1))
        self._seasons.resize(kept, len(names))

    # -- which series are tested alone

    def _promote(self, raw: Floats) -> None:
        """Take up series that have grown enough, give back to the tail those that shrank."""
        state, fewest = self.state, self._parameters.requests_min
        state.recent *= 1.0 - 1.0 / _BURST_BINS
        state.recent += raw[0]
        is_large = (state.mean_requests >= fewest) & (state.age > 0)
        is_burst = state.recent >= _BURST_BINS * _BURST_FACTOR * fewest
        up = (state.tested == 0) & (is_large | is_burst)
        down = (state.tested == 1) & (state.mean_requests < _DEMOTE_FACTOR * fewest)
        down &= ~is_burst & (state.frozen == 0)
        down[TAIL] = False
        if up.any() or down.any():
            self._move(np.flatnonzero(up), np.flatnonzero(down), raw)

    def _move(self, up: Places, down: Places, raw: Floats) -> None:
        state = self.state
        weight = np.exp(state.level + state.season)
        total = (weight * state.tested).sum(axis=1)
        tail = weight[:, TAIL].copy()
        for place in up:
            share = state.mean_share[:, place]
            if not share.any():
                share = np.maximum(raw[:2, place], 0.5) / np.maximum(raw[:2].sum(axis=1), 1.0)
            weight[:, place] = np.maximum(share, 1e-9) * np.where(total > 0, total, 1.0)
            state.level[:, place] = np.log(weight[:, place])
            state.level_age[place] = min(state.age[place], _LEARN_AFRESH_BINS)
            state.season[:, place] = 0.0
            state.run[place] = 0
            tail = np.maximum(tail - weight[:, place], 0.1 * tail)
        for place in down:
            tail = tail + weight[:, place]
        if weight[:, TAIL].all() and state.age[TAIL] > 0:
            state.level[:, TAIL] += np.log(tail / weight[:, TAIL])
        state.tested[up], state.tested[down] = 1.0, 0.0

    # -- expectation

    def _expectations(self, one: Bin, raw: Floats, places: Places) -> tuple[Floats, Floats, Floats]:
        """Return observed and expected counts and expected shares, ``[2, tested]`` each."""
        state = self.state
        state.season[:] = self._seasons.at(one.end_ms - BIN_MS // 2)
        weight = np.exp((state.level + state.season)[:, places])
        share = weight / weight.sum(axis=1, keepdims=True)
        total = raw[:2].sum(axis=1)
        if OTHER in one.values:
            self._impute(one, raw, places, share[0] * total[0])
        counts = raw[:2, places]
        counts[:, 0] += total - counts.sum(axis=1)  # The tail is the first that is tested.
        unit = np.ones((2, len(places)))
        unit[1] = self._unit()[places]
        return counts / unit, share * total[:, None] / unit, share

    def _impute(self, one: Bin, raw: Floats, places: Places, expected: Floats) -> None:
        """Give tested series that fell out of the top what they can have had at most.

        Their requests are part of ``other``; at most as many as those of the smallest row.
        """
        state = self.state
        is_absent = raw[0, places] == 0
        is_absent[TAIL] = False
        if not is_absent.any() or raw[0, TAIL] == 0:
            return
        absent = places[is_absent]
        named = [
            count for name, count in zip(one.values, one.requests, strict=True) if name != OTHER
        ]
        guess = np.minimum(expected[is_absent], min(named, default=0.0))
        guess *= min(1.0, 0.9 * raw[0, TAIL] / max(guess.sum(), 1e-9))
        per_request = state.mean_capped[absent] / np.maximum(state.mean_counted[absent], 1e-9)
        capped = guess * per_request
        capped *= min(1.0, 0.9 * raw[1, TAIL] / max(capped.sum(), 1e-9))
        raw[0, absent], raw[1, absent] = guess, capped
        raw[:2, TAIL] -= guess.sum(), capped.sum()

    def _unit(self) -> Floats:
        """Return capped tokens per effective request: sum of squares over sum (Kish)."""
        state = self.state
        known = state.mean_capped > 0
        unit = np.where(known, state.mean_squared / np.where(known, state.mean_capped, 1.0), 0.0)
        squared, capped = state.mean_squared @ state.tested, state.mean_capped @ state.tested
        usual = float(squared) / max(float(capped), 1e-9)
        return np.where(unit > 0, unit, max(usual, 1.0))

    # -- comparison

    def _window(self, length: int) -> slice:
        end = self._at + LONGEST
        return slice(end - length, end)

    def _push(self, observed: Floats, expected: Floats, counted: Floats, places: Places) -> None:
        state = self.state
        for row in (self._at, self._at + LONGEST):
            state.observed[row] = state.expected[row] = 0.0
            state.observed[row][:, places] = observed
            state.expected[row][:, places] = expected
            state.counted[row] = counted
            state.counted[row, :, TAIL] += counted[:, state.tested == 0].sum(axis=1)
            self._totals[row] = counted.sum(axis=1)
        self._at = (self._at + 1) % LONGEST
        state.run += 1

    def _sums(self, buffer: Floats, places: Places) -> Floats:
        window = buffer[self._window(LONGEST)][::-1][..., places]
        return np.asarray(np.cumsum(window, axis=0)[LENGTHS - 1])

    def _read(self, places: Places, share: Floats) -> Reading:
        state, effect_min = self.state, self._parameters.effect_min
        found = residuals(
            self._sums(state.observed, places),
            self._sums(state.expected, places),
            np.maximum(state.between[..., places], _FLOOR_VARIANCE),
            self._spread()[places],
            state.frozen[places] > 0,
        )
        scale = state.scale[..., places]
        deviation = found.z / np.where(scale > 0, np.maximum(scale, _SCALE_MIN), 1.0)
        ratio = found.log_ratio
        is_large = np.abs(ratio) >= effect_min
        # Longer answers count if they moved the share of tokens, too.
        is_large[:, LENGTH] &= is_large[:, TOKENS] & (ratio[:, LENGTH] * ratio[:, TOKENS] > 0)
        found.is_known[:, LENGTH, TAIL] = False  # A mixture that changes has no length of its own.
        is_large &= found.is_known & (LENGTHS[:, None] <= state.run[places])[:, None]
        allowed = np.where(is_large, deviation, 0.0).reshape(-1, len(places))
        best = np.abs(allowed).argmax(axis=0)
        statistic = allowed[best, np.arange(len(places))]
        ready = state.age[places] >= _WARM_UP_BINS
        return Reading(places, np.where(ready, statistic, 0.0), found, deviation, share)

    def _spread(self) -> Floats:
        """Return the squared coefficient of variation of capped tokens per request."""
        state = self.state
        mean = state.mean_capped / np.maximum(state.mean_counted, 1e-9)
        spread = np.where(mean > 0, self._unit() / np.maximum(mean, 1e-9) - 1.0, 3.0)
        return np.asarray(np.maximum(spread, 0.1))

    # -- what an alert wants to know of one series

    def onset_bins(self, place: int, sign: float) -> int:
        """Return how many bins ago a change most likely began, at least 1 (the last bin)."""
        state = self.state
        length = int(np.clip(state.run[place], 1, LONGEST))
        window = self._window(length)
        observed = np.cumsum(state.observed[window, :, place][::-1], axis=0)
        expected = np.cumsum(state.expected[window, :, place][::-1], axis=0)
        gain = 2.0 * (np.sqrt(observed + 0.375) - np.sqrt(expected + 0.375))
        return int((sign * gain).max(axis=1).argmax()) + 1

    def shares(self, place: int, bins: int) -> tuple[Floats, Floats]:
        """Return shares of requests and of true tokens over the last bins, and as expected."""
        state = self.state
        window = self._window(min(max(bins, 1), LONGEST))
        totals = np.maximum(self._totals[window].sum(axis=0), 1.0)
        after = state.counted[window, :, place].sum(axis=0) / totals
        tested = state.tested > 0
        weight = np.exp(state.level + state.season) * tested
        per_capped = np.where(
            state.mean_capped > 0, state.mean_tokens / np.maximum(state.mean_capped, 1e-9), 1.0
        )
        weight[1] *= per_capped
        return after, np.asarray(weight[:, place] / np.maximum(weight.sum(axis=1), 1e-300))

    def log_odds_sd(self, place: int, bins: int) -> float:
        """Return the standard deviation of the log odds of a share of capped tokens."""
        state = self.state
        window = self._window(min(max(bins, 1), LONGEST))
        count = state.observed[window, 1, place].sum()
        nearest = int(np.searchsorted(LENGTHS, bins, side="right")) - 1
        between = max(float(state.between[max(nearest, 0), TOKENS, place]), _FLOOR_VARIANCE)
        return float(np.sqrt(1.0 / (count + 0.5) + between))

    def freeze(self, place: int) -> None:
        """Learn nothing of a series while its alert is on."""
        self.state.frozen[place] = 1.0

    def thaw(self, place: int) -> None:
        """Go on from here: windows do not reach back into what the alert was about."""
        self.state.frozen[place] = 0.0
        self.state.run[place] = 0.0

    def rebaseline(self, place: int, by: Floats) -> None:
        """Take a series' change ``[2]`` (log ratio) as its new normal, and thaw it."""
        self.state.level[:, place] += by
        self._seasons.shift(place, by)
        self.thaw(place)

    # -- learning

    def _learn(self, one: Bin, raw: Floats, tokens: Floats, reading: Reading) -> None:
        state, places = self.state, reading.places
        open_ = (state.frozen == 0).astype(np.float64)
        self._learn_variance(reading, open_[places])
        if one.end_ms % SLOT_MS == 0:
            known = (open_[places] > 0) & (state.run[places] >= LENGTHS[HALF_HOUR])
            weights = np.full(state.level.shape, np.nan)
            ratio = reading.residuals.log_ratio[HALF_HOUR, :2]
            usual = (state.level + state.season)[:, places]
            weights[:, places] = np.where(known, usual + ratio, np.nan)
            self._seasons.store(one.end_ms, weights)
        self._learn_level(reading, open_[places])
        self._learn_means(raw, tokens, open_)
        state.age += 1

    def _learn_variance(self, reading: Reading, open_: Floats) -> None:
        state, places, found = self.state, reading.places, reading.residuals
        between, scale, run = (
            state.between[..., places],
            state.scale[..., places],
            state.run[places],
        )
        within = ((LENGTHS[:, None] <= run) * open_)[:, None] * found.is_known
        rate = np.maximum(_rate(3 * _BINS_PER_DAY), 1.0 / (state.level_age[places] + 1.0)) * within
        rate = np.where(np.abs(reading.deviation) <= _CLIP_SD, rate, 0.0)
        square = np.expm1(found.log_ratio)
        square = np.where(square < 1.0, square, found.log_ratio) ** 2
        limit = 9.0 * (found.sampling + np.maximum(between, _FLOOR_VARIANCE))
        between += rate * (np.minimum(square, limit) - found.sampling - between)
        state.between[..., places] = between
        rate = np.maximum(_rate(5 * _BINS_PER_DAY), 1.0 / (state.age[places] + 2.0)) * within
        scale = np.where(scale > 0, scale, 1.0)
        size = _SCALE_FACTOR * np.minimum(np.abs(found.z), 3.0)
        state.scale[..., places] = scale + rate * (size - scale)

    def _learn_level(self, reading: Reading, open_: Floats) -> None:
        state, places, found = self.state, reading.places, reading.residuals
        age, level_age = state.age[places], state.level_age[places]
        half_life_hours = np.where(age >= DAILY_DAYS_MIN * _BINS_PER_DAY, 3.0, 1.0)
        half_life_hours[age >= SETTLED_DAYS * _BINS_PER_DAY] = LEVEL_HALF_LIFE_HOURS
        rate = np.maximum(_rate(half_life_hours * _BINS_PER_HOUR), 1.0 / (level_age + 1.0))
        ratio = found.log_ratio[0, :2]
        between = np.maximum(state.between[0, :2, places].T, _FLOOR_VARIANCE)
        sd = np.sqrt(found.sampling[0, :2] + between)
        # observed / usual - 1 has mean 0 for counts, the logarithm has not.
        score = np.minimum(np.expm1(np.minimum(ratio, 1.0)), 1.0)
        calm = np.where(np.abs(score) > _CLIP_SD * sd, 0.25, 1.0)
        score = calm * np.clip(score, -_CLIP_SD * sd, _CLIP_SD * sd)
        score = np.where(level_age < _YOUNG_LEVEL_BINS, ratio, score)
        state.level[:, places] += rate * open_ * score
        state.level_age[places] += open_

    def _learn_means(self, raw: Floats, tokens: Floats, open_: Floats) -> None:
        state = self.state
        # What is usual of the tail is usual of all in it: its own row may be one tiny request.
        untested = state.tested == 0
        raw, tokens = raw.copy(), tokens.copy()
        raw[:, TAIL] += raw[:, untested].sum(axis=1)
        tokens[TAIL] += tokens[untested].sum()
        rate = np.maximum(_rate(_BINS_PER_DAY), 1.0 / (state.age + 1.0)) * open_
        total = np.maximum(raw[:2, ~untested].sum(axis=1, keepdims=True), 1.0)
        state.mean_share += rate * (raw[:2] / total - state.mean_share)
        state.mean_requests += rate * (raw[0] - state.mean_requests)
        for name, values in (
            ("mean_counted", raw[0]),
            ("mean_capped", raw[1]),
            ("mean_squared", raw[2]),
            ("mean_tokens", tokens),
        ):
            mean = getattr(state, name)
            mean += np.where(values > 0, rate, 0.0) * (values - mean)

    def _turn_days(self, end_ms: int) -> None:
        """Renew the season at the first bin after each midnight."""
        day = (end_ms - 1) // DAY_MS
        last = (self._last_ms - 1) // DAY_MS if self._last_ms else day
        for each in range(max(last + 1, day - 27), day + 1):
            change = self._seasons.learn(each * DAY_MS)
            self.state.level -= change * (self.state.tested > 0)


def _rate(half_life_bins: Floats | float) -> Floats:
    return np.asarray(1.0 - 0.5 ** (1.0 / np.asarray(half_life_bins, dtype=np.float64)))
