"""Worlds whose share changes are known: eight weeks of requests of 12 vendors and a long tail.

Every request has its own tokens (lognormal, squared coefficient of variation about 12), so heavy
tails, caps and single huge requests are exact. Four quiet weeks come first, four scored ones follow.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streams.detection import BIN_MS, Bin

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]

START_MS = 1_767_571_200_000
"""Monday 5 January 2026, 00:00 UTC."""
MINUTES_PER_BIN = 5
BINS_PER_DAY = 288
QUIET_DAYS = 28
SCORED_DAYS = 28
REQUESTS_PER_MINUTE = 600.0
TOP = 50
"""Rows of a bin before the rest becomes ``other``, as the stream delivers it."""

_SHARES = (27.0, 20.0, 14.0, 8.0, 8.0, 6.5, 5.0, 4.0, 2.5, 1.5, 0.8, 0.2)
_TAIL_VENDORS = 48
_TAIL_SHARE = 1.5
VENDORS = tuple(f"vendor-{number:02d}" for number in range(1, len(_SHARES) + 1))
NAMES = (*VENDORS, *(f"tail-{number:02d}" for number in range(_TAIL_VENDORS)))
_V = len(NAMES)
TOKENS_SIGMA = 1.6
_TOKENS_MEDIAN = 900.0
TOKENS_CAP_SD = 1.645
"""Tokens of a request are capped at the 95th percentile, in deviations of their logarithm."""
_HUGE_REQUEST_TOKENS = 1_000_000

_NOISE_SD, _NOISE_PHI_PER_MINUTE = 0.04, 0.95
_DRIFT_SD_PER_DAY = 0.015
_WHALES_PER_DAY = 2.0
_DECAY_DAYS = 7.0
_EVENT_SPACING_MINUTES = 48 * 60
"""Two changes of one vendor are at least so far apart."""

CHANGES = {
    "8 to 14 %": 10,
    "outage": 11,
    "odds x1.25": 8,
    "ramp x1.5": 7,
    "small x3": 7,
    "longer x1.5": 7,
}
"""Real changes of a world's scored weeks, by kind."""
HARD_NEGATIVES = {"total x2.5": 7, "huge request": 8}


@dataclass(frozen=True)
class Event:
    """Something that was done to a world.

    Attributes:
        vendor: Row of the vendor, or -1 for all.
        direction: ``up`` or ``down``; empty for a hard negative.
        onset_ms: When it began.
        until_ms: After this an alarm is not about it any more.
    """

    kind: str
    vendor: int
    direction: str
    onset_ms: int
    until_ms: int

    @property
    def is_change(self) -> bool:
        """Whether an alarm is wanted."""
        return self.kind in CHANGES


@dataclass(frozen=True, eq=False)
class World:
    """Counts per bin and vendor, ``[bins, vendors]``, and what was done."""

    requests: Int64s
    tokens: Int64s
    tokens_capped: Int64s
    tokens_capped_squared: Int64s
    errors: Int64s
    events: tuple[Event, ...]
    scored_from_ms: int = field(default=START_MS + QUIET_DAYS * BINS_PER_DAY * BIN_MS)

    def bins(self) -> Iterator[Mapping[str, Bin]]:
        """Return the same bins as `stream_path.stream_bins`, but for ranks by requests; fast."""
        for row in range(len(self.requests)):
            yield {"vendor": self._bin(row)}

    def _bin(self, row: int) -> Bin:
        requests = self.requests[row]
        order = np.argsort(-requests, kind="stable")
        top, rest = order[:TOP], order[TOP:]
        top = top[requests[top] > 0]
        names = [NAMES[place] for place in top]
        has_rest = requests[rest].any()

        def column(values: Int64s) -> Int64s:
            return np.append(values[top], values[rest].sum()) if has_rest else values[top]

        counts = column(requests)
        return Bin(
            "vendor",
            START_MS + (row + 1) * BIN_MS,
            (*names, "other") if has_rest else tuple(names),
            counts,
            column(self.tokens[row]),
            column(self.tokens_capped[row]),
            column(self.tokens_capped_squared[row]),
            np.ceil(counts * 0.3).astype(np.int64),
            column(self.errors[row]),
        )


def make_world(
    seed: int,
    *,
    quiet: bool = False,
    days: int = QUIET_DAYS + SCORED_DAYS,
    happenings: Mapping[str, int] = CHANGES | HARD_NEGATIVES,
) -> World:
    """Return the world of a seed; a quiet one has noise, drift, seasons and whales only.

    Args:
        days: Of the whole world; the scored ones come after ``QUIET_DAYS``.
        happenings: How many of each kind are spread over the scored days.
    """
    rng = np.random.default_rng(seed)
    minutes = days * BINS_PER_DAY * MINUTES_PER_BIN
    log_share = _log_shares(rng, minutes)
    log_tokens = np.zeros((minutes, _V))
    traffic = REQUESTS_PER_MINUTE * _traffic(rng, minutes)
    events = () if quiet else _inject(rng, happenings, log_share, log_tokens, traffic)
    weights = np.exp(log_share)
    rates = traffic[:, None] * weights / weights.sum(axis=1, keepdims=True)
    rates *= 1.0 + _whales(rng, minutes)
    return _draw(rng, rates, log_tokens, events)


def _log_shares(rng: np.random.Generator, minutes: int) -> Floats:
    """Return log shares ``[minutes, vendors]``: level, two seasons, drift and correlated noise."""
    tail = np.full(_TAIL_VENDORS, _TAIL_SHARE / _TAIL_VENDORS)
    base = np.log(np.concatenate([_SHARES, tail * rng.lognormal(0.0, 0.3, _TAIL_VENDORS)]))
    day = np.arange(minutes)[:, None] / 1440.0
    season = np.zeros((minutes, _V))
    for cycles, low, high in ((1.0, 0.05, 0.20), (2.0, 0.0, 0.06), (1.0 / 7.0, 0.02, 0.08)):
        size = rng.uniform(low, high, _V)
        phase = rng.uniform(0.0, 2 * np.pi, _V)
        season += size * np.sin(2 * np.pi * cycles * day + phase)
    weekend = (np.floor(day) % 7 >= 5) * rng.normal(0.0, 0.08, _V)
    steps = rng.normal(0.0, _DRIFT_SD_PER_DAY / np.sqrt(1440.0), (minutes, _V))
    return np.asarray(base + season + weekend + np.cumsum(steps, axis=0) + _noise(rng, minutes))


def _noise(rng: np.random.Generator, minutes: int) -> Floats:
    phi = _NOISE_PHI_PER_MINUTE
    shocks = rng.normal(0.0, _NOISE_SD * np.sqrt(1 - phi**2), (minutes, _V))
    noise = np.empty_like(shocks)
    last = rng.normal(0.0, _NOISE_SD, _V)
    for minute in range(minutes):
        last = phi * last + shocks[minute]
        noise[minute] = last
    return noise


def _traffic(rng: np.random.Generator, minutes: int) -> Floats:
    day = np.arange(minutes) / 1440.0
    daily = 1.0 + 0.4 * np.sin(2 * np.pi * (day - rng.uniform()))
    weekend = np.where(np.floor(day) % 7 >= 5, 0.75, 1.0)
    wander = np.exp(0.05 * np.cumsum(rng.normal(0.0, 1.0 / np.sqrt(1440.0), minutes)))
    return np.asarray(daily * weekend * wander)


def _whales(rng: np.random.Generator, minutes: int) -> Floats:
    """Return what single accounts add to a vendor's requests: 2 to 12 % for 5 to 40 minutes."""
    added = np.zeros((minutes, _V))
    for _ in range(rng.poisson(_WHALES_PER_DAY * minutes / 1440.0)):
        start = rng.integers(0, minutes)
        added[start : start + rng.integers(5, 41), rng.integers(0, len(VENDORS))] += rng.uniform(
            0.02, 0.12
        )
    return added


def _inject(
    rng: np.random.Generator,
    happenings: Mapping[str, int],
    log_share: Floats,
    log_tokens: Floats,
    traffic: Floats,
) -> tuple[Event, ...]:
    kinds = [kind for kind, count in happenings.items() for _ in range(count)]
    rng.shuffle(kinds)
    first = QUIET_DAYS * 1440
    spacing = (len(traffic) - first) // len(kinds)
    busy = np.full(len(VENDORS), -(10**9))
    events = []
    for number, kind in enumerate(kinds):
        minute = first + number * spacing + int(rng.integers(0, spacing // 2))
        vendor = _pick(rng, kind, minute, busy)
        if vendor >= 0:
            busy[vendor] = minute
        events.append(_apply(rng, kind, vendor, minute, log_share, log_tokens, traffic))
    return tuple(events)


def _pick(rng: np.random.Generator, kind: str, minute: int, busy: Int64s) -> int:
    """Return a vendor the kind is about that had no change lately, -1 for all of them."""
    if kind == "total x2.5":
        return -1
    candidates = {
        "8 to 14 %": np.array([3, 4, 5]),
        "small x3": np.flatnonzero(np.array(_SHARES) < 2.0),
    }.get(kind, np.arange(len(VENDORS)))
    idle = candidates[minute - busy[candidates] >= _EVENT_SPACING_MINUTES]
    if not len(idle):
        idle = candidates[np.argsort(busy[candidates])[:1]]
    return int(rng.choice(idle))


def _apply(
    rng: np.random.Generator,
    kind: str,
    vendor: int,
    minute: int,
    log_share: Floats,
    log_tokens: Floats,
    traffic: Floats,
) -> Event:
    """Do one thing to a world, in place."""
    sign = int(rng.choice([-1, 1])) if kind in ("odds x1.25", "ramp x1.5") else 1
    if kind == "total x2.5":
        length = int(rng.integers(30, 121))
        traffic[minute : minute + length] *= 2.5
        return _event(kind, -1, "", minute, length + 30)
    if kind == "huge request":
        return _event(kind, vendor, "", minute, 60)
    if kind == "outage":
        log_share[minute : minute + 45, vendor] += np.log(0.15)
        return _event(kind, vendor, "down", minute, 45 + 30)
    size, ramp_minutes = {
        "8 to 14 %": (np.log(0.14 / 0.86) - np.log(0.08 / 0.92), 10),
        "odds x1.25": (np.log(1.25), 1),
        "ramp x1.5": (np.log(1.5), 60),
        "small x3": (np.log(3.0), 1),
        "longer x1.5": (np.log(1.5), 1),
    }[kind]
    target = log_tokens if kind == "longer x1.5" else log_share
    hold = int(rng.integers(3 * 60, 10 * 60))
    after = np.arange(1, len(traffic) - minute + 1)
    decay = np.clip(1.0 - (after - hold) / (_DECAY_DAYS * 1440), 0.0, 1.0)
    target[minute:, vendor] += sign * size * np.minimum(after / ramp_minutes, 1.0) * decay
    return _event(kind, vendor, "up" if sign > 0 else "down", minute, 12 * 60)


def _event(kind: str, vendor: int, direction: str, minute: int, minutes: int) -> Event:
    onset_ms = START_MS + minute * 60_000
    return Event(kind, vendor, direction, onset_ms, onset_ms + minutes * 60_000)


def _draw(
    rng: np.random.Generator, rates: Floats, log_tokens: Floats, events: tuple[Event, ...]
) -> World:
    """Draw every request of every bin, a day at a time."""
    bins = len(rates) // MINUTES_PER_BIN
    rates = rates.reshape(bins, MINUTES_PER_BIN, _V).sum(axis=1)
    log_tokens = log_tokens.reshape(bins, MINUTES_PER_BIN, _V).mean(axis=1)
    medians = np.log(_TOKENS_MEDIAN) + rng.normal(0.0, 0.4, _V)
    cap = int(_TOKENS_MEDIAN * np.exp(TOKENS_CAP_SD * np.hypot(TOKENS_SIGMA, 0.4)))
    requests = rng.poisson(rates)
    sums = np.zeros((3, bins, _V), dtype=np.int64)
    for first in range(0, bins, BINS_PER_DAY):
        day = slice(first, first + BINS_PER_DAY)
        sums[:, day] = _token_sums(rng, requests[day], medians + log_tokens[day], cap)
    for event in events:
        if event.kind == "huge request":
            place = ((event.onset_ms - START_MS) // BIN_MS, event.vendor)
            requests[place] += 1
            for total, value in zip(sums, (_HUGE_REQUEST_TOKENS, cap, cap**2), strict=True):
                total[place] += value
    tokens, capped, squared = sums
    return World(requests, tokens, capped, squared, rng.binomial(requests, 0.02), events)


def _token_sums(rng: np.random.Generator, requests: Int64s, medians: Floats, cap: int) -> Int64s:
    """Return tokens, capped tokens and their squares, ``[3, bins, vendors]``."""
    counts = requests.ravel()
    draws = rng.standard_normal(counts.sum(), dtype=np.float32) * np.float32(TOKENS_SIGMA)
    tokens = np.exp(draws + np.repeat(medians.ravel().astype(np.float32), counts)).astype(np.int64)
    tokens += 1
    capped = np.minimum(tokens, cap)
    ends = np.cumsum(counts)
    sums = [
        np.diff(np.concatenate([[0], np.cumsum(each)])[np.concatenate([[0], ends])])
        for each in (tokens, capped, capped**2)
    ]
    return np.stack(sums).reshape(3, *requests.shape)
