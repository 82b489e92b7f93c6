"""The week's season of each series: what is usual for this half hour of the week."""

import warnings

import numpy as np

from streams.detection.bins import Floats, Numbers
from streams.detection.parameters import HOUR_MS

SLOT_MS = HOUR_MS // 2
SLOTS_PER_DAY = 48
DAYS = 28
"""Days remembered: the medians are of up to four weeks, so one old incident cannot enter them."""
DAY_MS = 24 * HOUR_MS
_MONDAY_MS = 4 * DAY_MS
"""The epoch began on a Thursday."""
DAILY_DAYS_MIN = 5
WEEKLY_DAYS_MIN = 20


class Seasons:
    """Half-hourly log weights of the last 28 days and the season they show.

    A season is a daily profile (median over the days, which makes it calm for small series) plus
    what each part of the week adds to it (median over the weeks, smoothed over six hours, against
    the seven days around).

    Args:
        series: Number of series; ``resize`` changes it.
    """

    def __init__(self, series: int = 0) -> None:
        self._days: Numbers = np.full((DAYS, SLOTS_PER_DAY, 2, series), np.nan, dtype=np.float32)
        self._table: Numbers = np.zeros((7, SLOTS_PER_DAY, 2, series), dtype=np.float32)

    def resize(self, kept: Numbers, added: int) -> None:
        """Keep the series at these places and add empty ones behind them."""
        self._days = _resized(self._days, kept, added, np.nan)
        self._table = _resized(self._table, kept, added, 0.0)

    def at(self, middle_ms: int) -> Floats:
        """Return the season ``[2, series]`` at a moment, between the half hours' middles."""
        table = self._table.reshape(7 * SLOTS_PER_DAY, *self._table.shape[2:])
        place = ((middle_ms - _MONDAY_MS - SLOT_MS // 2) / SLOT_MS) % len(table)
        first = int(place)
        part = place - first
        return np.asarray(
            (1 - part) * table[first % len(table)] + part * table[(first + 1) % len(table)],
            dtype=np.float64,
        )

    def store(self, end_ms: int, log_weights: Floats) -> None:
        """Remember the log weights ``[2, series]`` of the half hour that ends now; NaN: unknown."""
        start_ms = end_ms - SLOT_MS
        slot = (start_ms % DAY_MS) // SLOT_MS
        day = (start_ms // DAY_MS) % DAYS
        self._days[day, slot] = log_weights

    def shift(self, series: int, by: Floats) -> None:
        """Move the past of one series ``[2]``: its new level is to be taken as the usual one."""
        self._days[..., series] += by

    def learn(self, day_start_ms: int) -> Floats:
        """Renew the season from the 28 days before a midnight.

        Returns:
            Change of the season at that midnight ``[2, series]``, for the level to take back.
        """
        before = self.at(day_start_ms)
        today = (day_start_ms // DAY_MS) % DAYS
        days = np.roll(self._days, -today, axis=0)  # Oldest first.
        weekday = ((day_start_ms - _MONDAY_MS) // DAY_MS) % 7
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # All-NaN slices are series unseen.
            profile, weekly = _profiles(days)
        self._table = np.roll(profile + weekly, weekday, axis=0)
        self._days[today] = np.nan
        return self.at(day_start_ms) - before


def _profiles(days: Numbers) -> tuple[Floats, Floats]:
    """Return the daily profile ``[slots, 2, S]`` and the week's addition ``[7, slots, 2, S]``."""
    known = np.isfinite(days).sum(axis=1) >= SLOTS_PER_DAY // 2
    day_means = np.where(known, np.nanmean(days, axis=1), np.nan)
    profile = np.nanmedian(days - day_means[:, None], axis=0)
    profile = _smoothed(profile, (0.25, 0.5, 0.25))
    profile = np.where(known.sum(axis=0) >= DAILY_DAYS_MIN, profile - profile.mean(axis=0), 0.0)
    weekly = _by_weekday(days - profile - _moving_mean(day_means)[:, None])
    flat = weekly.reshape(7 * SLOTS_PER_DAY, *days.shape[2:])
    smooth = _smoothed(flat, (1 / 12,) * 12).reshape(weekly.shape)
    smooth = np.where(known.sum(axis=0) >= WEEKLY_DAYS_MIN, smooth, 0.0)
    return np.nan_to_num(profile), np.nan_to_num(smooth)


def _moving_mean(day_means: Floats) -> Floats:
    """Return the mean of the seven days around each day, NaN at both ends.

    What fades over a week would look like a season of the week without it.
    """
    windows = np.lib.stride_tricks.sliding_window_view(day_means, 7, axis=0)
    moving = np.full(day_means.shape, np.nan)
    moving[3:-3] = np.nanmean(windows, axis=-1)
    return moving


def _by_weekday(days: Floats) -> Floats:
    """Return the median over weeks ``[7, slots, 2, S]``, the first day first."""
    return np.asarray(np.nanmedian(days.reshape(DAYS // 7, 7, *days.shape[1:]), axis=0))


def _smoothed(values: Floats, weights: tuple[float, ...]) -> Floats:
    """Return a circular weighted mean along the first axis, over what is known."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    total, mass = np.zeros(values.shape), np.zeros(values.shape)
    for place, weight in enumerate(weights):
        by = len(weights) // 2 - place
        total += weight * np.roll(filled, by, axis=0)
        mass += weight * np.roll(known, by, axis=0)
    return np.asarray(np.where(mass > 0, total / np.maximum(mass, 1e-9), np.nan))


def _resized(values: Numbers, kept: Numbers, added: int, fill: float) -> Numbers:
    new = np.full((*values.shape[:-1], added), fill, dtype=values.dtype)
    return np.concatenate([values[..., kept], new], axis=-1)
