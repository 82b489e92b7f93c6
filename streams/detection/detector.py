"""One detector for a whole market: what is said of a bin, all dimensions together.

Data that are missing are not a share change: a bin end that is incomplete, that never came, or that
has far too little traffic holds every share where it is, and is told as what it is.

A large change shows in many series. It is told once: jumps of all traffic, outages of providers and
changes of vendors silence what follows from them (``suppressed``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from streams.detection.alerts import PROVIDER, ShareAlerts
from streams.detection.bins import Bin
from streams.detection.new_models import NewModels
from streams.detection.outages import ErrorOutages
from streams.detection.parameters import BIN_MS, HOUR_MS, Parameters
from streams.detection.relations import Relations
from streams.detection.series import Reading
from streams.detection.totals import Totals
from streams.detection.transitions import Kind, State, Transition

LAG_BINS_MAX = 2
"""More bins than this in a row without complete data are told as ``ingest_lag``."""
INHIBIT_MS = HOUR_MS // 2
"""What began this long before its cause still follows from it, and for as long after its end."""
ORIGIN_PART_MIN = 0.5
"""Part of an origin group's change that a vendor's must be to be its cause."""
MODEL, VENDOR, VENDOR_REGION, ORIGIN = "model", "vendor", "vendor_region", "origin"
_REGION_SEPARATOR = "|"
_ON = (State.FIRING, State.SUPPRESSED)


class MarketDetector:
    """Sudden changes in a stream of bins. Not safe for threads; it has no clock of its own.

    State is bounded by ``Parameters.series_max`` and comes from the bins alone: four weeks of them
    (``rebuild``) make a detector that says what one would that lived all along.

    Args:
        parameters: With thresholds from ``calibrate``.
        relations: What belongs to what.
        open_alerts: Alerts that others were told are on; ``rebuild`` agrees with them.
    """

    def __init__(
        self,
        parameters: Parameters,
        *,
        relations: Relations | None = None,
        open_alerts: Iterable[Transition] = (),
    ) -> None:
        self.parameters = parameters
        self._relations = relations or Relations()
        self._told = tuple(open_alerts)
        self._shares: dict[str, ShareAlerts] = {}
        self._totals = Totals()
        self._new_models = NewModels()
        self._errors = ErrorOutages()
        self._lag: Transition | None = None
        self._held = 0
        self._last_ms = 0
        self._causes: list[tuple[Transition, int]] = []
        self.readings: dict[str, Reading] = {}
        """What the last bin said of every series, by dimension; empty if it was held."""

    @property
    def open_alerts(self) -> list[Transition]:
        """Return the alerts that are on, firing or suppressed, with numbers as of the last bin."""
        found = [each.last for one in self._shares.values() for each in one.open.values()]
        found += self._new_models.open + self._errors.open
        return found + [each for each in (self._totals.alert, self._lag) if each is not None]

    def series(self, dimension: str) -> tuple[str, ...]:
        """Return the names of a dimension's series that are tested."""
        one = self._shares.get(dimension)
        if one is None:
            return ()
        tested = np.flatnonzero(one.table.state.tested)
        return tuple(one.table.names[place] for place in tested)

    def observe(self, bins: Mapping[str, Bin]) -> list[Transition]:
        """Take the bins of one bin end, by dimension; return what is to be told, causes first.

        A bin end at or before the last one is ignored.

        Raises:
            ValueError: If the bins end at different times.
        """
        ends = {one.end_ms for one in bins.values()}
        if len(ends) > 1:
            raise ValueError("bins of one call must end at the same time")
        if not ends or (end_ms := ends.pop()) <= self._last_ms:
            return []
        if not all(one.is_complete for one in bins.values()):
            return self.hold(end_ms)
        said = self._catch_up(end_ms)
        self._last_ms = end_ms
        said += self._totals.observe(_requests(bins), end_ms)
        self.readings = {}
        if self._totals.is_held:
            return said
        return said + self._silence(self._step(bins), said, end_ms)

    def hold(self, end_ms: int) -> list[Transition]:
        """Say that nothing complete came for a bin end; return what is to be told.

        A bin end at or before the last one is ignored.
        """
        if end_ms <= self._last_ms:
            return []
        self.readings = {}
        self._last_ms = end_ms
        self._held += 1
        if self._lag is None and self._held > LAG_BINS_MAX:
            since_ms = end_ms - self._held * BIN_MS
            self._lag = Transition(Kind.INGEST_LAG, State.FIRING, "", "", "", since_ms, end_ms)
            self._lag = replace(self._lag, statistic=self._held, threshold=LAG_BINS_MAX)
            return [self._lag]
        if self._lag is not None:
            self._lag = replace(self._lag, at_ms=end_ms, statistic=self._held)
        return []

    def rebuild(self, history: Iterable[Mapping[str, Bin]]) -> list[Transition]:
        """Take what had been observed before, and agree with ``open_alerts`` on what is on.

        Returns:
            What must still be told: alerts that are on here and that nobody was told of, and the end
            of those that others were told of and that are not on here.
        """
        for bins in history:
            self.observe(bins)
        told = {each.id: each for each in self._told if each.kind is not Kind.RULE}
        known = [each for each in told.values() if self._adopt(each)]
        ids = {each.id for each in known}
        new = [each for each in self.open_alerts if each.id not in ids]
        over = [
            replace(each, state=State.RESOLVED, at_ms=self._last_ms, suppressed_by="")
            for id_, each in told.items()
            if id_ not in ids
        ]
        return [*over, *new]

    def _adopt(self, told: Transition) -> bool:
        one = self._shares.get(told.dimension)
        if any(told.id == each.id for each in self.open_alerts):
            return True
        return one is not None and one.adopt(told)

    # -- one bin

    def _catch_up(self, end_ms: int) -> list[Transition]:
        """Count bin ends that never came, and end the lag with this complete one."""
        missed = (end_ms - self._last_ms) // BIN_MS - 1 if self._last_ms else 0
        said = []
        for number in range(min(missed, LAG_BINS_MAX + 1)):
            said += self.hold(end_ms - (min(missed, LAG_BINS_MAX + 1) - number) * BIN_MS)
        self._held = 0
        if self._lag is not None:
            said.append(replace(self._lag, state=State.RESOLVED, at_ms=end_ms))
            self._lag = None
        return said

    def _step(self, bins: Mapping[str, Bin]) -> list[Transition]:
        said = []
        for dimension in sorted(bins, key=_causes_first):
            if not len(bins[dimension].values):
                continue
            one = self._shares.get(dimension)
            if one is None:
                one = self._shares[dimension] = ShareAlerts(dimension, self.parameters)
            reading, news = one.step(bins[dimension])
            self.readings[dimension] = reading
            said += news
        if PROVIDER in bins:
            said += self._without_twins(self._errors.observe(bins[PROVIDER]))
        if MODEL in bins:
            said += self._new_models.observe(bins[MODEL])
        return said

    def _without_twins(self, outages: list[Transition]) -> list[Transition]:
        """Leave out outages told by their errors that are told by their share already."""
        one = self._shares.get(PROVIDER)
        open_ = one.open if one is not None else {}
        return [each for each in outages if each.value not in open_ or each.state not in _ON]

    # -- what silences what

    def _silence(
        self, news: list[Transition], totals: list[Transition], end_ms: int
    ) -> list[Transition]:
        """Return the news, with alerts that follow from others marked as such."""
        for each in (*totals, *news):
            if each.state not in _ON:
                self._causes.append((each, end_ms + INHIBIT_MS))
        self._causes = [(each, until) for each, until in self._causes if until > end_ms]
        causes = [*self.open_alerts, *(each for each, _ in self._causes)]
        new = {each.id for each in news if each.state is State.FIRING}
        shares = {each.last.id for one in self._shares.values() for each in one.open.values()}
        said = [each for each in news if each.state is not State.FIRING or each.id not in shares]
        for one in self._shares.values():
            for alert in one.open.values():
                cause = next((c for c in causes if self._explains(c, alert.last)), None)
                state = State.FIRING if cause is None else State.SUPPRESSED
                is_changed = state is not alert.last.state or alert.last.id in new
                by = cause.id if cause is not None else ""
                alert.last = replace(alert.last, state=state, suppressed_by=by)
                if is_changed:
                    said.append(alert.last)
        return sorted(said, key=lambda each: _causes_first(each.dimension))

    def _explains(self, cause: Transition, alert: Transition) -> bool:
        if cause.kind is Kind.INGEST_LAG or alert.since_ms < cause.since_ms - INHIBIT_MS:
            return False
        if cause.id == alert.id:
            return False
        if cause.kind in (Kind.TOTAL_DROP, Kind.TOTAL_JUMP):
            return True
        if cause.kind is Kind.PROVIDER_OUTAGE:
            return alert.dimension != PROVIDER
        if cause.kind is not Kind.SHARE_CHANGE or cause.dimension != VENDOR:
            return False
        if cause.direction != alert.direction:
            return False
        if alert.dimension == ORIGIN:
            return self._moves_origin(cause, alert)
        if alert.dimension == MODEL:
            return cause.value == self._relations.vendor_of_model(alert.value)
        is_region = alert.dimension == VENDOR_REGION
        return is_region and cause.value == alert.value.partition(_REGION_SEPARATOR)[0]

    def _moves_origin(self, vendor: Transition, origin: Transition) -> bool:
        """Return whether a vendor's change makes up most of that of an origin group."""
        is_own = origin.value in self._relations.origins_of_vendor(vendor.value)
        return is_own and abs(_points(vendor)) >= ORIGIN_PART_MIN * abs(_points(origin))


def _points(alert: Transition) -> float:
    """Return by how much the share has moved, of 1."""
    return alert.share_after - alert.share_before


def _causes_first(dimension: str) -> tuple[int, str]:
    order = {"": 0, PROVIDER: 1, VENDOR: 2}
    return order.get(dimension, 3), dimension


def _requests(bins: Mapping[str, Bin]) -> float:
    """Return the requests of all traffic; every dimension has them all."""
    return max(float(np.sum(one.requests)) for one in bins.values())
