"""What alarms are worth, once it is known what really happened."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from streams.detection import BIN_MS
from tests.benchmarks.alerts.worlds import BINS_PER_DAY, START_MS, VENDORS, World

MINUTE_MS = 60_000
NEIGHBOUR_MS = 120 * MINUTE_MS
"""Alarms on other vendors so long after a change are counted as extra."""
SERIES = len(VENDORS) + 1
"""Vendors that are tested alone and the tail."""


@dataclass(frozen=True)
class Alarm:
    """One alarm; ``direction`` is empty for detectors that don't say."""

    value: str
    direction: str
    at_ms: int


@dataclass
class Score:
    """Counts of one or more worlds; they add up.

    Attributes:
        delays_minutes: From onset to the end of the alarming bin, infinite if never, by kind.
        false: Alarms that are about no change, or tell one again.
        extra: Those of them on other vendors within two hours of a change.
        chance: What ``extra`` would be if false alarms came at random.
        negatives_hit: Hard negatives with an alarm that is about no change.
    """

    delays_minutes: dict[str, list[float]] = field(default_factory=dict)
    alarms: int = 0
    false: int = 0
    extra: int = 0
    chance: float = 0.0
    negatives: int = 0
    negatives_hit: int = 0
    series_days: float = 0.0

    def add(self, other: "Score") -> None:
        """Count another world in."""
        for kind, delays in other.delays_minutes.items():
            self.delays_minutes.setdefault(kind, []).extend(delays)
        for name in ("alarms", "false", "extra", "negatives", "negatives_hit"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.chance += other.chance
        self.series_days += other.series_days

    def delays(self, kind: str | None = None) -> list[float]:
        """Return the delays of one kind of change, or of all, minutes."""
        return [
            each
            for name, delays in self.delays_minutes.items()
            if kind in (None, name)
            for each in delays
        ]

    def within(self, minutes: float, kind: str | None = None) -> float:
        """Return the part of the changes that was found in time."""
        delays = self.delays(kind)
        return sum(each <= minutes for each in delays) / max(len(delays), 1)

    def quantile(self, part: float, kind: str | None = None) -> float:
        """Return a quantile of the delays of the changes that were found, minutes."""
        found = [each for each in self.delays(kind) if np.isfinite(each)]
        return float(np.quantile(found, part)) if found else np.inf

    @property
    def precision(self) -> float:
        """Return the part of the alarms that tell a change for the first time."""
        return 1.0 - self.false / self.alarms if self.alarms else 1.0

    @property
    def false_per_series_day(self) -> float:
        """Return the rate of false alarms."""
        return self.false / max(self.series_days, 1e-9)

    @property
    def extra_per_change(self) -> float:
        """Return alarms on other vendors per real change."""
        return self.extra / max(len(self.delays()), 1)


def score(world: World, alarms: Iterable[Alarm]) -> Score:
    """Return what the alarms of a world's scored weeks are worth."""
    scored = sorted((each for each in alarms if each.at_ms > world.scored_from_ms), key=_time)
    changes = [each for each in world.events if each.is_change]
    first: dict[int, int] = {}
    false = []
    for alarm in scored:
        told = [
            number
            for number, event in enumerate(changes)
            if alarm.value == VENDORS[event.vendor]
            and alarm.direction in ("", event.direction)
            and event.onset_ms < alarm.at_ms <= event.until_ms
        ]
        new = [number for number in told if number not in first]
        if new:
            first[new[-1]] = alarm.at_ms
        else:
            false.append(alarm)
    found = Score(alarms=len(scored), false=len(false))
    for number, event in enumerate(changes):
        delay = (first[number] - event.onset_ms) / MINUTE_MS if number in first else np.inf
        found.delays_minutes.setdefault(event.kind, []).append(delay)
    days = len(world.requests) / BINS_PER_DAY - (world.scored_from_ms - START_MS) / (
        BINS_PER_DAY * BIN_MS
    )
    found.series_days = SERIES * days
    _count_neighbours(found, world, false)
    return found


def _count_neighbours(found: Score, world: World, false: Sequence[Alarm]) -> None:
    times = np.array([each.at_ms for each in false])
    for event in world.events:
        if event.is_change:
            found.extra += sum(
                event.onset_ms < each.at_ms <= event.onset_ms + NEIGHBOUR_MS
                and each.value != VENDORS[event.vendor]
                for each in false
            )
            days = NEIGHBOUR_MS / (BINS_PER_DAY * BIN_MS)
            found.chance += (found.false / found.series_days) * days * (SERIES - 1)
        else:
            found.negatives += 1
            found.negatives_hit += bool(
                ((times > event.onset_ms) & (times <= event.until_ms)).any()
            )


def _time(alarm: Alarm) -> int:
    return alarm.at_ms
