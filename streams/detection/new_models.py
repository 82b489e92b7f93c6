"""New models that take a share of all requests within two days of their first request."""

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from streams.detection.bins import OTHER, Bin
from streams.detection.parameters import BIN_MS, HOUR_MS
from streams.detection.transitions import Kind, State, Transition

NEW_MS = 48 * HOUR_MS
LEVELS = (0.005, 0.02, 0.05, 0.10)
"""Shares of requests at which a new model is told, each once."""
WINDOW_BINS = 6
REQUESTS_MIN = 100
USERS_MIN = 5
KNOWN_MAX = 5_000
"""Names remembered; beyond it those not seen for the longest are forgotten."""
_Z = 1.96


def wilson_low(successes: float, trials: float, z: float = _Z) -> float:
    """Return the lower bound of a proportion (Wilson 1927); 0 without trials."""
    if trials <= 0:
        return 0.0
    share = successes / trials
    middle = share + z * z / (2 * trials)
    width = z * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return float((middle - width) / (1 + z * z / trials))


def wilson_high(successes: float, trials: float, z: float = _Z) -> float:
    """Return the upper bound of a proportion; 1 without trials."""
    return 1.0 - wilson_low(trials - successes, trials, z) if trials > 0 else 1.0


@dataclass
class _Young:
    first_ms: int
    level: int = 0
    requests: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_BINS))
    tokens: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_BINS))
    users: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW_BINS))
    last: Transition | None = None


class NewModels:
    """First sight of every model, and alerts on those that grow at once."""

    def __init__(self) -> None:
        self._seen_ms: dict[str, int] = {}
        self._young: dict[str, _Young] = {}
        self._totals: deque[tuple[float, float]] = deque(maxlen=WINDOW_BINS)
        self._began_ms = 0

    @property
    def open(self) -> list[Transition]:
        """Return the alerts that are on."""
        return [young.last for young in self._young.values() if young.last is not None]

    def observe(self, one: Bin) -> list[Transition]:
        """Take the next bin of the dimension ``model``; return what is to be told."""
        self._began_ms = self._began_ms or one.end_ms
        said = self._grow_up(one.end_ms)
        self._totals.append((float(np.sum(one.requests)), float(np.sum(one.tokens))))
        rows = {value: row for row, value in enumerate(one.values) if value != OTHER}
        for value in rows:
            is_new = value not in self._seen_ms and one.end_ms - self._began_ms >= NEW_MS
            if is_new:
                self._young[value] = _Young(one.end_ms - BIN_MS)
            self._seen_ms.pop(value, None)  # Put last: what was not seen for longest is first.
            self._seen_ms[value] = one.end_ms
        for value, young in self._young.items():
            row = rows.get(value)
            for column, kept in (
                (one.requests, young.requests),
                (one.tokens, young.tokens),
                (one.users, young.users),
            ):
                kept.append(0.0 if row is None else float(column[row]))
            said += self._judge(value, young, one.end_ms)
        while len(self._seen_ms) > KNOWN_MAX:
            del self._seen_ms[next(iter(self._seen_ms))]
        return said

    def _judge(self, value: str, young: _Young, end_ms: int) -> list[Transition]:
        mine, all_ = sum(young.requests), sum(each for each, _ in self._totals)
        low = wilson_low(mine, all_)
        tokens, all_tokens = sum(young.tokens), max(sum(each for _, each in self._totals), 1.0)
        reached = sum(low > level for level in LEVELS)
        if young.last is not None or (
            reached and mine >= REQUESTS_MIN and max(young.users) >= USERS_MIN
        ):
            share = tokens / all_tokens
            young.last = Transition(
                Kind.NEW_MODEL,
                State.FIRING,
                "model",
                value,
                "up",
                young.first_ms,
                end_ms,
                share_after=share,
                share_low=min(share, wilson_low(share * all_, all_)),
                share_high=max(share, wilson_high(share * all_, all_)),
                requests_share_after=mine / max(all_, 1.0),
                statistic=low,
                threshold=LEVELS[max(reached, young.level, 1) - 1],
            )
        if young.last is None or reached <= young.level:
            return []
        young.level = reached
        return [young.last]

    def _grow_up(self, end_ms: int) -> list[Transition]:
        said = []
        for value, young in list(self._young.items()):
            if end_ms - young.first_ms > NEW_MS:
                del self._young[value]
                if young.last is not None:
                    said.append(replace(young.last, state=State.RESOLVED, at_ms=end_ms))
        return said
