"""Alerts on the series of one dimension, from the first bin to the last."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from streams.detection.bins import Bin, Floats
from streams.detection.parameters import BIN_MS, HOUR_MS, Parameters
from streams.detection.series import (
    HOUR,
    LENGTHS,
    QUARTER_HOUR,
    REQUESTS,
    Reading,
    SeriesTable,
)
from streams.detection.transitions import Kind, State, Transition

PROVIDER = "provider"
RESOLVE_BINS = 3
REJOIN_MS = HOUR_MS
REBASELINE_MS = 6 * HOUR_MS
_SHARE_BINS_MAX = 12
_OUTAGE_EFFECT = float(np.log(0.5))
_RESOLVE_EFFECT_MAX = 0.15


@dataclass
class Alert:
    """An alert that is on, or was a short time ago.

    Attributes:
        last: Its newest transition, with numbers as of the last bin.
        fired_ms: End of the bin at which it fired first.
        quiet_bins: Bins in a row that looked normal again.
        signal: Which signal it fired on.
        length: Place in ``LENGTHS`` of the window it is judged by.
        effect: Log ratio at which it fired.
        moved: Log ratio of each bin's last hour, for the new baseline.
    """

    last: Transition
    fired_ms: int
    quiet_bins: int = 0
    signal: int = REQUESTS
    length: int = QUARTER_HOUR
    effect: float = 0.0
    moved: list[Floats] = field(default_factory=list)


class ShareAlerts:
    """Alerts of one dimension. Says what fires and ends; what is silenced is decided above."""

    def __init__(self, dimension: str, parameters: Parameters) -> None:
        self._dimension = dimension
        self._parameters = parameters
        self._threshold = parameters.threshold_of(dimension)
        self.table = SeriesTable(parameters)
        self.open: dict[str, Alert] = {}
        self._ended: dict[str, tuple[Alert, int]] = {}
        self._pending: set[str] = set()

    def step(self, one: Bin) -> tuple[Reading, list[Transition]]:
        """Take the next bin; return what it says and the alerts that fire or end with it."""
        reading = self.table.step(one)
        at = {int(place): column for column, place in enumerate(reading.places)}
        said = [
            news
            for value in list(self.open)
            for news in self._follow(value, at, reading, one.end_ms)
        ]
        ended = {each.value for each in said}  # Its windows were cut: this bin is told already.
        loud = np.flatnonzero(np.abs(reading.statistic) >= self._threshold)
        pending = self._pending
        self._pending = set()
        for column in loud:
            if self.table.names[reading.places[column]] in ended:
                continue
            said += self._begin(int(column), reading, one.end_ms, pending)
        self._ended = {
            value: (alert, ended_ms)
            for value, (alert, ended_ms) in self._ended.items()
            if one.end_ms - ended_ms < REJOIN_MS
        }
        return reading, said

    # -- beginning

    def _begin(
        self, column: int, reading: Reading, end_ms: int, pending: set[str]
    ) -> Iterator[Transition]:
        place = int(reading.places[column])
        value = self.table.names[place]
        if value in self.open or self.table.state.frozen[place]:
            return
        statistic = float(reading.statistic[column])
        length, signal = _where(reading, column)
        effect = float(reading.residuals.log_ratio[length, signal, column])
        kind = Kind.SHARE_CHANGE
        if self._dimension == PROVIDER and effect < 0:
            if effect <= _OUTAGE_EFFECT:
                kind = Kind.PROVIDER_OUTAGE
            elif value not in pending:
                # An outage's first bin may hold a minute of it; the next one tells.
                self._pending.add(value)
                return
        direction = "up" if statistic > 0 else "down"
        since_ms = end_ms - BIN_MS * self.table.onset_bins(place, np.sign(statistic))
        alert = Alert(
            Transition(kind, State.FIRING, self._dimension, value, direction, since_ms, end_ms),
            end_ms,
        )
        before = self._ended.pop(value, None)
        if before is not None and before[0].last.direction == direction:
            alert = before[0]
            alert.quiet_bins = 0
        alert.signal, alert.effect = signal, effect
        alert.length = max(length, QUARTER_HOUR)
        self._keep(alert, place, column, reading, end_ms)
        yield alert.last

    def _keep(self, alert: Alert, place: int, column: int, reading: Reading, end_ms: int) -> None:
        self.table.freeze(place)
        self.open[alert.last.value] = alert
        self._renew(alert, place, column, reading, end_ms)
        alert.last = replace(alert.last, state=State.FIRING, suppressed_by="")

    def adopt(self, alert: Transition) -> bool:
        """Give an alert that is on the identity under which it was told.

        Returns:
            Whether there is such an alert here.
        """
        mine = self.open.get(alert.value)
        if mine is None or mine.last.direction != alert.direction or mine.last.kind != alert.kind:
            return False
        mine.last = replace(
            mine.last,
            since_ms=alert.since_ms,
            state=alert.state,
            suppressed_by=alert.suppressed_by,
        )
        return True

    # -- while it is on

    def _follow(
        self, value: str, at: dict[int, int], reading: Reading, end_ms: int
    ) -> Iterator[Transition]:
        place = self.table.place(value)
        column = at.get(place) if place is not None else None
        alert = self.open[value]
        if place is None or column is None:
            return
        self._renew(alert, place, column, reading, end_ms)
        if end_ms - alert.fired_ms >= REBASELINE_MS:
            # The first hour may hold the change's beginning.
            moved = np.mean(alert.moved[LENGTHS[HOUR] :] or alert.moved, axis=0)
            self.table.rebaseline(place, moved)
            yield self._end(alert, State.REBASELINED, end_ms)
        elif self._is_over(alert, column, reading):
            self.table.thaw(place)
            self._ended[value] = (alert, end_ms)
            yield self._end(alert, State.RESOLVED, end_ms)

    def _renew(self, alert: Alert, place: int, column: int, reading: Reading, end_ms: int) -> None:
        """Write down where the share is now."""
        last, table = alert.last, self.table
        bins = min((end_ms - last.since_ms) // BIN_MS, _SHARE_BINS_MAX)
        after, before = table.shares(place, bins)
        share = float(np.clip(after[1], 1e-12, 1 - 1e-12))
        odds, sd = np.log(share / (1 - share)), table.log_odds_sd(place, bins)
        low, high = (1.0 / (1.0 + np.exp(-odds - way * 1.96 * sd)) for way in (-1, 1))
        alert.moved.append(reading.residuals.log_ratio[HOUR, :2, column])
        deviation = reading.deviation[:, :, column]
        alert.last = replace(
            last,
            at_ms=end_ms,
            share_before=float(before[1]),
            share_after=float(after[1]),
            share_low=min(float(low), float(after[1])),
            share_high=max(float(high), float(after[1])),
            requests_share_before=float(before[0]),
            requests_share_after=float(after[0]),
            statistic=float(reading.statistic[column] or deviation[alert.length, alert.signal]),
            threshold=self._threshold,
        )

    def _is_over(self, alert: Alert, column: int, reading: Reading) -> bool:
        """Return whether the share has been nearer its old than its new place for 15 min."""
        found = reading.residuals
        effect = found.log_ratio[alert.length, alert.signal, column]
        sd = abs(effect / (reading.deviation[alert.length, alert.signal, column] or 1.0))
        # Halfway, and clearly so; but a large change need not come back all the way.
        size = abs(alert.effect)
        limit = min(0.5 * size - sd, max(_RESOLVE_EFFECT_MAX, 2.0 * sd))
        limit = max(limit, 0.25 * size)
        sign = np.sign(alert.effect)
        alert.quiet_bins = alert.quiet_bins + 1 if sign * effect < limit else 0
        is_opposite = sign * reading.statistic[column] <= -self._threshold
        return bool(alert.quiet_bins >= RESOLVE_BINS or is_opposite)

    def _end(self, alert: Alert, state: State, end_ms: int) -> Transition:
        del self.open[alert.last.value]
        alert.last = replace(alert.last, state=state, at_ms=end_ms, suppressed_by="")
        return alert.last


def _where(reading: Reading, column: int) -> tuple[int, int]:
    """Return length and signal of a reading's statistic."""
    size = np.abs(reading.deviation[:, :, column] - reading.statistic[column])
    length, signal = np.unravel_index(size.argmin(), size.shape)
    return int(length), int(signal)
