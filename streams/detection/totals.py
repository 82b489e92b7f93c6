"""All traffic together: is there far less or far more of it than usual?"""

from dataclasses import dataclass, field, replace

import numpy as np

from streams.detection.parameters import BIN_MS, HOUR_MS
from streams.detection.seasons import DAY_MS, SLOT_MS, Seasons
from streams.detection.transitions import Kind, State, Transition

DROP_RATIO = 0.3
"""Below this part of the usual traffic shares say nothing: data are missing."""
DROP_OVER_RATIO = 0.5
JUMP_RATIO = 2.0
JUMP_OVER_RATIO = 1.5
JUMP_SD = 4.0
REQUESTS_MIN = 30.0
"""Less traffic than this in a bin is never a drop."""
OVER_BINS = 3
REBASELINE_MS = 6 * HOUR_MS
_BIN_RATE = BIN_MS / HOUR_MS
_WARM_UP_MS = DAY_MS
SETTLED_DAYS = 14


@dataclass
class Totals:
    """Usual traffic of a bin, by season and level, and the alert on it, if one is on."""

    alert: Transition | None = None
    is_held: bool = False
    """Whether the last bin had so little traffic that shares must not be judged."""
    _level: float = 0.0
    _variance: float = 0.05**2
    _age: int = 0
    _last_ms: int = 0
    _over: int = 0
    _fired_ms: int = 0
    _moved: list[float] = field(default_factory=list)
    _half_hour: list[float] = field(default_factory=list)
    _seasons: Seasons = field(default_factory=lambda: Seasons(1))

    def observe(self, requests: float, end_ms: int) -> list[Transition]:
        """Take the requests of the next bin; return what is to be told."""
        self._turn_days(end_ms)
        season = float(self._seasons.at(end_ms - BIN_MS // 2)[0, 0])
        ratio = float(np.log(requests + 0.5)) - self._level - season if self._age else 0.0
        if not self._age:
            self._level = float(np.log(requests + 0.5)) - season
        usual = float(np.exp(self._level + season))
        is_ready = self._age * BIN_MS >= _WARM_UP_MS and usual >= REQUESTS_MIN
        self.is_held = is_ready and ratio < np.log(DROP_RATIO)
        said = self._judge(ratio, usual, end_ms) if is_ready else []
        self._learn(ratio, season, end_ms)
        return said

    def _judge(self, ratio: float, usual: float, end_ms: int) -> list[Transition]:
        sd = float(np.sqrt(self._variance + 1.0 / usual))
        if self.alert is None:
            is_jump = ratio > np.log(JUMP_RATIO) and ratio > JUMP_SD * sd
            if not (self.is_held or is_jump):
                return []
            kind, direction, limit = (
                (Kind.TOTAL_DROP, "down", DROP_RATIO)
                if self.is_held
                else (Kind.TOTAL_JUMP, "up", JUMP_RATIO)
            )
            self._over, self._fired_ms, self._moved = 0, end_ms, []
            self.alert = Transition(
                kind, State.FIRING, "", "", direction, end_ms - BIN_MS, end_ms, threshold=limit
            )
            self.alert = replace(self.alert, statistic=float(np.exp(ratio)))
            return [self.alert]
        return self._follow(ratio, end_ms)

    def _follow(self, ratio: float, end_ms: int) -> list[Transition]:
        assert self.alert is not None
        self._moved.append(ratio)
        self.alert = replace(self.alert, at_ms=end_ms, statistic=float(np.exp(ratio)))
        if self.alert.kind is Kind.TOTAL_DROP:
            is_over = ratio > np.log(DROP_OVER_RATIO)
        else:
            is_over = ratio < np.log(JUMP_OVER_RATIO)
        self._over = self._over + 1 if is_over else 0
        if self._over >= OVER_BINS:
            return self._end(State.RESOLVED)
        if end_ms - self._fired_ms >= REBASELINE_MS:
            self._level += float(np.mean(self._moved))
            self._seasons.shift(0, np.full(2, np.mean(self._moved)))
            return self._end(State.REBASELINED)
        return []

    def _end(self, state: State) -> list[Transition]:
        assert self.alert is not None
        said = replace(self.alert, state=state)
        self.alert = None
        return [said]

    def _learn(self, ratio: float, season: float, end_ms: int) -> None:
        self._age += 1
        if self.alert is None:
            hours = 6.0 if self._age * BIN_MS >= SETTLED_DAYS * DAY_MS else 1.0
            rate = max(1.0 - 0.5 ** (_BIN_RATE / hours), 1.0 / (self._age + 1.0))
            sd = 4.0 * float(np.sqrt(self._variance))
            self._half_hour.append(self._level + season + ratio)
            self._level += rate * (ratio if self._age < 12 else float(np.clip(ratio, -sd, sd)))
            rate = max(1.0 - 0.5 ** (_BIN_RATE / 72.0), 1.0 / (self._age + 1.0))
            self._variance += rate * (min(ratio**2, 9.0 * self._variance) - self._variance)
            self._variance = max(self._variance, 0.02**2)
        if end_ms % SLOT_MS == 0:
            mean = np.mean(self._half_hour) if self._half_hour else np.nan
            self._seasons.store(end_ms, np.full((2, 1), mean))
            self._half_hour = []

    def _turn_days(self, end_ms: int) -> None:
        day = (end_ms - 1) // DAY_MS
        last = (self._last_ms - 1) // DAY_MS if self._last_ms else day
        for each in range(max(last + 1, day - 27), day + 1):
            self._level -= float(self._seasons.learn(each * DAY_MS)[0, 0])
        self._last_ms = end_ms
