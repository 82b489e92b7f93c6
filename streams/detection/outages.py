"""Providers that answer with errors: an outage may be seen before their requests fall."""

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from streams.detection.alerts import PROVIDER, RESOLVE_BINS
from streams.detection.bins import OTHER, Bin
from streams.detection.new_models import wilson_low
from streams.detection.parameters import BIN_MS, HOUR_MS
from streams.detection.transitions import Kind, State, Transition

WINDOW_BINS = 3
ERROR_RATIO_MIN = 0.2
ERROR_RATIO_FACTOR = 5.0
"""Errors must be so many times the provider's usual ones."""
ERRORS_MIN = 20
REBASELINE_MS = 6 * HOUR_MS
PROVIDERS_MAX = 500
_Z = 3.0
_DAY_BINS = 24 * HOUR_MS // BIN_MS


@dataclass
class _Provider:
    usual: float = 0.0
    bins: int = 0
    recent: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW_BINS))
    quiet: int = 0
    fired_ms: int = 0
    last: Transition | None = None


class ErrorOutages:
    """The share of errors of each provider against its own past."""

    def __init__(self) -> None:
        self._providers: dict[str, _Provider] = {}

    @property
    def open(self) -> list[Transition]:
        """Return the alerts that are on."""
        return [each.last for each in self._providers.values() if each.last is not None]

    def observe(self, one: Bin) -> list[Transition]:
        """Take the next bin of the dimension ``provider``; return what is to be told."""
        said = []
        total = max(float(np.sum(one.requests)), 1.0)
        for value, requests, errors in zip(one.values, one.requests, one.errors, strict=True):
            if value == OTHER:
                continue
            provider = self._providers.pop(value, None) or _Provider()
            self._providers[value] = provider  # Put last: the first is the longest not seen.
            provider.recent.append((float(requests), float(errors)))
            said += self._judge(value, provider, one.end_ms, total)
        while len(self._providers) > PROVIDERS_MAX:
            del self._providers[next(iter(self._providers))]
        return said

    def _judge(self, value: str, one: _Provider, end_ms: int, total: float) -> list[Transition]:
        requests = sum(each for each, _ in one.recent)
        errors = sum(each for _, each in one.recent)
        low = wilson_low(errors, requests, _Z)
        limit = max(ERROR_RATIO_MIN, ERROR_RATIO_FACTOR * one.usual)
        if one.last is None:
            if one.bins < _DAY_BINS or low <= limit or errors < ERRORS_MIN:
                self._learn(one)
                return []
            since_ms = end_ms - BIN_MS * _bad_bins(one, limit)
            share = one.recent[-1][0] / total
            one.last = Transition(
                Kind.PROVIDER_OUTAGE,
                State.FIRING,
                PROVIDER,
                value,
                "down",
                since_ms,
                end_ms,
                requests_share_after=share,
                statistic=low,
                threshold=limit,
            )
            one.quiet, one.fired_ms = 0, end_ms
            return [one.last]
        one.last = replace(one.last, at_ms=end_ms, statistic=low)
        newest_requests, newest_errors = one.recent[-1]
        is_quiet = newest_errors <= max(0.5 * ERROR_RATIO_MIN, 2 * one.usual) * newest_requests
        one.quiet = one.quiet + 1 if is_quiet else 0
        if one.quiet >= RESOLVE_BINS:
            return [self._end(one, State.RESOLVED)]
        if end_ms - one.fired_ms >= REBASELINE_MS:
            one.usual = errors / max(requests, 1.0)
            return [self._end(one, State.REBASELINED)]
        return []

    def _end(self, one: _Provider, state: State) -> Transition:
        assert one.last is not None
        said = replace(one.last, state=state)
        one.last = None
        return said

    def _learn(self, one: _Provider) -> None:
        requests, errors = one.recent[-1]
        one.bins += 1
        if requests:
            rate = max(1.0 - 0.5 ** (1.0 / _DAY_BINS), 1.0 / one.bins)
            one.usual += rate * (errors / requests - one.usual)


def _bad_bins(one: _Provider, limit: float) -> int:
    """Return how many of the last bins had too many errors, at least 1."""
    count = 0
    for requests, errors in reversed(one.recent):
        if errors <= limit * requests:
            break
        count += 1
    return max(count, 1)
