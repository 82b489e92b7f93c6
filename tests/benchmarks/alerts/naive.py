"""What teams start with: four detectors on plain shares, each with the threshold that meets the budget."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.detection import BIN_MS
from tests.benchmarks.alerts.scoring import Alarm
from tests.benchmarks.alerts.worlds import BINS_PER_DAY, QUIET_DAYS, START_MS, VENDORS, World

Floats = npt.NDArray[np.float64]

SERIES = (*VENDORS, "other")
WINDOW = 6
"""Bins of the windows that are compared: 30 minutes."""
JOIN_BINS = 12
"""Alarms of a series nearer than an hour are one."""
_WEEK = 7 * BINS_PER_DAY


def week_over_week(requests: Floats, tokens: Floats) -> Floats:
    """Return the log ratio of a share of tokens to that of the same half hour a week ago."""
    del requests
    share = _share(tokens)
    return _against(share, _WEEK)


def ratio(requests: Floats, tokens: Floats) -> Floats:
    """Return the log ratio of a share of tokens to that of the half hour before."""
    del requests
    return _against(_share(tokens), WINDOW)


def static_points(requests: Floats, tokens: Floats) -> Floats:
    """Return by how many percentage points a share of tokens moved since the half hour before."""
    del requests
    share = _share(tokens)
    moved = np.zeros_like(share)
    moved[WINDOW:] = 100.0 * (share[WINDOW:] - share[:-WINDOW])
    return moved


def z_test(requests: Floats, tokens: Floats) -> Floats:
    """Return the two-proportion z of a share of requests against the half hour before."""
    del tokens
    count = _window(requests)
    total = count.sum(axis=1, keepdims=True)
    z = np.zeros_like(count)
    now, before = count[WINDOW:] / total[WINDOW:], count[:-WINDOW] / total[:-WINDOW]
    pooled = (count[WINDOW:] + count[:-WINDOW]) / (total[WINDOW:] + total[:-WINDOW])
    error = np.sqrt(pooled * (1 - pooled) * (1 / total[WINDOW:] + 1 / total[:-WINDOW]))
    z[WINDOW:] = (now - before) / np.maximum(error, 1e-12)
    return z


Statistic = Callable[[Floats, Floats], Floats]

NAIVE: Mapping[str, Statistic] = {
    "week over week, ratio of token shares": week_over_week,
    "half hour over half hour, ratio of token shares": ratio,
    "half hour over half hour, percentage points": static_points,
    "half hour over half hour, z-test on requests": z_test,
}


@dataclass(frozen=True)
class Trace:
    """A statistic of every scored bin and series of a world, ``[bins, series]``."""

    statistic: Floats
    first_bin: int

    def alarms(self, threshold: float) -> list[Alarm]:
        """Return when the statistic is over a threshold; nearer than an hour is one alarm."""
        rows, columns = np.nonzero(np.abs(self.statistic) >= threshold)
        alarms = []
        last: dict[tuple[int, bool], int] = {}
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            is_up = bool(self.statistic[row, column] > 0)
            if row - last.get((column, is_up), -JOIN_BINS - 1) > JOIN_BINS:
                at_ms = START_MS + (self.first_bin + row + 1) * BIN_MS
                alarms.append(Alarm(SERIES[column], "up" if is_up else "down", at_ms))
            last[column, is_up] = row
        return alarms


def trace(world: World, statistic: Statistic) -> Trace:
    """Return a naive detector's statistic of a world's scored weeks."""
    values = statistic(_series(world.requests), _series(world.tokens))
    first = QUIET_DAYS * BINS_PER_DAY
    return Trace(values[first:], first)


def threshold_for(traces: list[Trace], alarms_max: float) -> float:
    """Return the smallest threshold with so many alarms at most on quiet worlds, by bisection."""
    low, high = 0.0, max(float(np.abs(each.statistic).max()) for each in traces) + 1e-9
    for _ in range(40):
        middle = (low + high) / 2
        if sum(len(each.alarms(middle)) for each in traces) <= alarms_max:
            high = middle
        else:
            low = middle
    return high


def _series(counts: npt.NDArray[np.int64]) -> Floats:
    vendors = counts[:, : len(VENDORS)].astype(np.float64)
    return np.concatenate([vendors, counts[:, len(VENDORS) :].sum(axis=1, keepdims=True)], axis=1)


def _window(counts: Floats) -> Floats:
    total = np.cumsum(counts, axis=0)
    total[WINDOW:] = total[WINDOW:] - total[:-WINDOW]
    return total


def _share(counts: Floats) -> Floats:
    count = _window(counts)
    return np.asarray((count + 1.0) / (count + 1.0).sum(axis=1, keepdims=True))


def _against(share: Floats, bins: int) -> Floats:
    moved = np.zeros_like(share)
    moved[bins:] = np.log(share[bins:] / share[:-bins])
    return moved
