"""What a detector would have said: history replayed as it had landed at each moment."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Protocol

import numpy as np
import pyarrow as pa

from schemas.panes import OTHER, UNKNOWN
from schemas.share_alert import ShareAlert
from streams.alerts.building import build
from streams.alerts.ledger import Ledger
from streams.detection import BIN_MS, Bin, MarketDetector, Parameters, Relations

DAY_MS = 86_400_000
MEASURES = ("requests", "tokens", "tokens_capped", "tokens_capped_squared", "users", "errors")


class Landed(Protocol):
    """Where bins are counted: a `sinks.landed_bins.LandedBins`."""

    def read(self, dimension: str, from_ms: int, to_ms: int) -> pa.Table:
        """Return a row per bin and value."""


def landed_history(
    landed: Landed,
    dimensions: Iterable[str],
    from_ms: int,
    to_ms: int,
    *,
    top: int,
    on_day: Callable[[int], None] = lambda _: None,
) -> Iterator[dict[str, Bin]]:
    """Yield the bins of ``[from_ms, to_ms)``, an end at a time, every end, in order.

    An end at which nothing had landed has bins without values.

    Args:
        top: Values with a row of their own; the rest is ``other``, ``unknown`` a row too.
        on_day: Called with the time reached.
    """
    wanted = sorted(dimensions)
    while from_ms < to_ms:
        next_ms = min(from_ms + DAY_MS, to_ms)
        by_end: dict[int, dict[str, Bin]] = {
            end_ms: {} for end_ms in range(from_ms + BIN_MS, next_ms + 1, BIN_MS)
        }
        for dimension in wanted:
            for each in bins_of_rows(landed.read(dimension, from_ms, next_ms), dimension, top):
                by_end[each.end_ms][dimension] = each
        for end_ms, bins in by_end.items():
            yield {
                dimension: bins.get(dimension) or _empty(dimension, end_ms) for dimension in wanted
            }
        from_ms = next_ms
        on_day(from_ms)


def _empty(dimension: str, end_ms: int) -> Bin:
    none = np.array([], dtype=np.float64)
    return Bin(dimension, end_ms, (), none, none, none, none, none, none)


def bins_of_rows(table: pa.Table, dimension: str, top: int) -> Iterator[Bin]:
    """Yield a bin per end: the largest values by tokens, then ``other``, then ``unknown``."""
    ends = table["end_ms"].to_numpy()
    values = table["value"].to_pylist()
    measures = np.array([table[name].to_numpy() for name in MEASURES], dtype=np.float64)
    bounds = [0, *(np.flatnonzero(np.diff(ends)) + 1), len(ends)]
    for begin, end in pairwise(bounds):
        if begin == end:
            continue
        yield _bin(dimension, int(ends[begin]), values[begin:end], measures[:, begin:end], top)


def _bin(
    dimension: str,
    end_ms: int,
    values: Sequence[str],
    measures: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    top: int,
) -> Bin:
    """Return one bin; rows come larger ones first."""
    named = [at for at, value in enumerate(values) if value not in (OTHER, UNKNOWN)]
    rest = named[top:] + [at for at, value in enumerate(values) if value == OTHER]
    groups = [(values[at], [at]) for at in named[:top]]
    groups += [(OTHER, rest)] if rest else []
    groups += [(value, [at]) for at, value in enumerate(values) if value == UNKNOWN]
    columns = {
        name: np.array([measures[row, at].sum() for _, at in groups], dtype=np.float64)
        for row, name in enumerate(MEASURES)
    }
    return Bin(
        dimension,
        end_ms,
        tuple(name for name, _ in groups),
        requests=columns["requests"],
        tokens=columns["tokens"],
        tokens_capped=columns["tokens_capped"],
        tokens_capped_squared=columns["tokens_capped_squared"],
        users=columns["users"],
        errors=columns["errors"],
    )


@dataclass
class Outcome:
    """What one set of parameters said.

    Attributes:
        name: What the settings are called.
        alerts: Every transition, in order.
        series: Series that were tested at the end, all dimensions together.
    """

    name: str
    parameters: Parameters
    alerts: list[ShareAlert] = field(default_factory=list)
    series: int = 0

    @property
    def fired(self) -> list[ShareAlert]:
        """First firing transitions: one per alert."""
        found: dict[str, ShareAlert] = {}
        for alert in self.alerts:
            if alert.state == "firing":
                found.setdefault(alert.alert_id, alert)
        return list(found.values())

    def end_ms(self, alert_id: str, otherwise_ms: int) -> int:
        """Return when an alert ended."""
        ends = [each.at_ms for each in self.alerts if each.alert_id == alert_id and not each.is_on]
        return max(ends, default=otherwise_ms)

    def kinds(self) -> Mapping[str, int]:
        """Return alerts by kind."""
        return Counter(alert.kind for alert in self.fired)

    def delay_minutes(self) -> float | None:
        """Return the median time from the start of a change to its alert."""
        delays = [(each.at_ms - each.since_ms) / 60_000 for each in self.fired]
        return median(delays) if delays else None

    def per_series(self, days: float) -> float | None:
        """Return share changes per series and 28 days."""
        changes = sum(1 for each in self.fired if each.kind == "share_change")
        return changes * 28 / (self.series * days) if self.series and days else None


def replay(
    history: Iterable[Mapping[str, Bin]],
    settings: Mapping[str, Parameters],
    *,
    from_ms: int,
    relations: Relations | None = None,
) -> list[Outcome]:
    """Return what each of some settings says of a history, side by side.

    Args:
        history: Bins in order of time; those that end at ``from_ms`` or before are only learnt from.
        settings: Parameters by name.
        relations: See `MarketDetector`.
    """
    outcomes = [Outcome(name, parameters) for name, parameters in settings.items()]
    detectors = [MarketDetector(each.parameters, relations=relations) for each in outcomes]
    ledgers = [Ledger() for _ in outcomes]
    dimensions: set[str] = set()
    for bins in history:
        dimensions |= bins.keys()
        is_judged = any(each.end_ms > from_ms for each in bins.values())
        for outcome, detector, ledger in zip(outcomes, detectors, ledgers, strict=True):
            for transition in detector.observe(bins):
                named = ledger.name(transition)
                if named is None:
                    continue
                alert = build(
                    transition,
                    named,
                    parameters_version=outcome.parameters.version,
                    parameters={},
                )
                ledger.record(alert)
                if is_judged:
                    outcome.alerts.append(alert)
    for outcome, detector in zip(outcomes, detectors, strict=True):
        outcome.series = sum(len(detector.series(dimension)) for dimension in dimensions)
    return outcomes
