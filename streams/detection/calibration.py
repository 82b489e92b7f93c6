"""Thresholds from one's own past: replay it, and see how far quiet series stray."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from streams.detection.bins import Bin
from streams.detection.detector import MarketDetector
from streams.detection.parameters import BIN_MS, HOUR_MS, Parameters
from streams.detection.seasons import DAY_MS
from streams.detection.series import Reading

BUDGET_DAYS = 28
BUDGET_PART = 0.6
"""Rates on fresh data scatter: thresholds for 0.7 of the budget gave 0.4 to 0.83 times of it on fresh
quiet worlds, with 83 % of alarms right and 83 % of changes found within an hour; for half of it 90 and
78 %, for this part 88 and 81 %, each on other worlds. Wanted are 85 and 80 %."""
GAP_BINS = 2 * HOUR_MS // BIN_MS
"""Deviations of a series nearer than this are one alarm."""
SETTLED_MS = 14 * DAY_MS
"""Days at the beginning that are not counted: seasons are not known yet. At most half of all."""
THRESHOLD_MIN, THRESHOLD_MAX = 3.5, 12.0
_PEAK_MIN = 3.0
_PEAKS_MIN = 10


@dataclass
class Trace:
    """Peaks of one dimension: bin end and size of the largest deviation of each episode."""

    bins: int = 0
    days: list[tuple[int, int]] = field(default_factory=list)
    peaks: list[tuple[int, float]] = field(default_factory=list)
    _open: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, end_ms: int, names: tuple[str, ...], reading: Reading) -> None:
        self.days.append((end_ms, len(names)))
        size = np.abs(reading.statistic)
        for column in np.flatnonzero(size >= _PEAK_MIN):
            name, value = names[column], float(size[column])
            place, last_ms = self._open.get(name, (-1, 0))
            if place >= 0 and end_ms - last_ms <= GAP_BINS * BIN_MS:
                begun_ms, peak = self.peaks[place]
                self.peaks[place] = (begun_ms, max(peak, value))
            else:
                place = len(self.peaks)
                self.peaks.append((end_ms, value))
            self._open[name] = (place, end_ms)


def calibrate(
    history: Iterable[Mapping[str, Bin]], parameters: Parameters, budget: float = 1.0
) -> Parameters:
    """Return the parameters with a threshold for every dimension of a quiet history.

    Real changes in the history count as false alarms, which makes thresholds too high, never too low:
    choose quiet weeks, four at least. The threshold is the deviation that the series of a dimension
    exceed together `BUDGET_PART` times as often as the budget allows.

    Args:
        history: Bins in order of time, from the first one that is known.
        parameters: All but the thresholds.
        budget: False alarms per series and 28 days.

    Raises:
        ValueError: If the budget is not above 0 or the history is shorter than two days.
    """
    if budget <= 0:
        raise ValueError("the budget of false alarms must be above 0")
    traces = trace(history, parameters)
    thresholds = {
        dimension: threshold(*counted(one), budget) for dimension, one in sorted(traces.items())
    }
    return replace(parameters, thresholds={**parameters.thresholds, **thresholds})


def trace(history: Iterable[Mapping[str, Bin]], parameters: Parameters) -> dict[str, Trace]:
    """Replay a history without alarms and return its peaks by dimension."""
    silent = replace(parameters, thresholds={}, threshold=np.inf)
    detector = MarketDetector(silent)
    traces: dict[str, Trace] = defaultdict(Trace)
    for bins in history:
        detector.observe(bins)
        for dimension, reading in detector.readings.items():
            names = detector.series(dimension)
            traces[dimension].add(bins[dimension].end_ms, names[: len(reading.places)], reading)
    return traces


def counted(one: Trace) -> tuple[list[float], float]:
    """Return the peaks that count and the series-days they come from.

    Raises:
        ValueError: If the history is too short.
    """
    first_ms, last_ms = one.days[0][0], one.days[-1][0]
    if last_ms - first_ms < 2 * DAY_MS - BIN_MS:
        raise ValueError("thresholds need two days of history at least, four weeks to be good")
    from_ms = first_ms + min(SETTLED_MS, (last_ms - first_ms) // 2)
    series_bins = sum(series for end_ms, series in one.days if end_ms >= from_ms)
    peaks = [peak for begun_ms, peak in one.peaks if begun_ms >= from_ms]
    return peaks, series_bins * BIN_MS / DAY_MS


def threshold(peaks: list[float], series_days: float, budget: float) -> float:
    """Return the size that so many peaks exceed as the budget allows.

    With few peaks beyond it the tail is extrapolated: squares of the peaks of nearly normal variables
    have an exponential tail.
    """
    allowed = BUDGET_PART * budget * series_days / BUDGET_DAYS
    ordered = np.sort(np.asarray(peaks))[::-1]
    if len(ordered) <= _PEAKS_MIN:
        return Parameters.threshold
    if allowed >= _PEAKS_MIN and allowed + 1 < len(ordered):
        found = float(ordered[int(allowed)])
    else:
        count = min(max(2 * _PEAKS_MIN, int(2 * allowed)), len(ordered) - 1)
        base = ordered[count] ** 2
        mean = float(np.mean(ordered[:count] ** 2 - base))
        found = float(np.sqrt(max(base + mean * np.log(count / allowed), 1.0)))
    return float(np.clip(found, THRESHOLD_MIN, THRESHOLD_MAX))
