"""Day and week seasons, and slow drift of shares: pure functions of event time."""

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Floats = NDArray[np.float64]

HOUR_MS = 3_600_000
DAY_MS = 86_400_000

# Local hour of most traffic, the quietest hour as a share of it, and Saturday and Sunday as a
# share of a working day.
_PEAK_HOUR = 15
_NIGHT = 0.2
_WEEKEND = 0.75
# 1 January 1970 was a Thursday: Saturdays are days 2, 9, 16 ...
_SATURDAY, _SUNDAY = 2, 3

# Drift is a sum of slow waves, the slowest the strongest: a walk that needs no state, so that any
# moment gives the same shares whatever was asked before.
_DRIFT_PERIODS_HOURS = np.array([5.0, 17.0, 61.0, 233.0, 1009.0])
_DRIFT_WEIGHTS = np.sqrt(2 * _DRIFT_PERIODS_HOURS / _DRIFT_PERIODS_HOURS.sum())


def activity(times_ms: Int64s, utc_offset_hours: Floats | float) -> Floats:
    """Return how busy people are at those times, 0 to 1, in their time zone."""
    local_hours = times_ms / HOUR_MS + utc_offset_hours
    daily = _NIGHT + (1 - _NIGHT) * (1 + np.cos((local_hours - _PEAK_HOUR) * (np.pi / 12))) / 2
    weekday = np.floor(local_hours / 24).astype(np.int64) % 7
    weekend = (weekday == _SATURDAY) | (weekday == _SUNDAY)
    return np.where(weekend, daily * _WEEKEND, daily)


class Calendar:
    """Spreads a number of events over ``[from_ms, to_ms)`` by the seasons.

    Args:
        zones: UTC offsets in hours and how many of the people live there.
    """

    def __init__(self, from_ms: int, to_ms: int, zones: tuple[Floats, Floats]) -> None:
        assert from_ms < to_ms
        inner = np.arange(from_ms // HOUR_MS + 1, -(-to_ms // HOUR_MS)) * HOUR_MS
        self._edges_ms = np.concatenate([[from_ms], inner, [to_ms]]).astype(np.int64)
        middles_ms = (self._edges_ms[1:] + self._edges_ms[:-1]) // 2
        busy = sum(
            share * activity(middles_ms, offset) for offset, share in zip(*zones, strict=True)
        )
        mass = np.concatenate([[0.0], np.cumsum(busy * np.diff(self._edges_ms))])
        self._cumulative = mass / mass[-1]

    def times_ms(self, places: Floats) -> Int64s:
        """Return the times at those places, 0 to 1, of all the traffic."""
        times = np.interp(places, self._cumulative, self._edges_ms.astype(np.float64))
        last = self._edges_ms[-1] - 1
        whole: Int64s = np.minimum(times.astype(np.int64), last)
        return whole


def drift(times_ms: Int64s, phases: Floats) -> Floats:
    """Return the drift of every model at every time: mean 0, standard deviation 1 over months.

    Args:
        phases: One row per model, one column per wave, 0 to 1.

    Returns:
        One row per time, one column per model.
    """
    turns = (times_ms / HOUR_MS)[:, None, None] / _DRIFT_PERIODS_HOURS + phases
    waves: Floats = (np.sin(2 * np.pi * turns) * _DRIFT_WEIGHTS).sum(axis=2)
    return waves


DRIFT_WAVES = len(_DRIFT_PERIODS_HOURS)
