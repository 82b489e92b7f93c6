"""A made market in bins, for the tests of the detector."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from streams.detection import (
    BIN_MS,
    Bin,
    Kind,
    MarketDetector,
    Parameters,
    State,
    Transition,
)

HOUR = 12
DAY = 24 * HOUR
START_MS = 1_767_571_200_000
SHARES = {"a": 0.5, "b": 0.25, "c": 0.15, "d": 0.08, "e": 0.02}
REQUESTS = 2_000


def make_bin(
    number: int,
    requests: Mapping[str, float],
    *,
    dimension: str = "vendor",
    tokens_each: float = 1_000.0,
    errors: Mapping[str, float] | None = None,
    is_complete: bool = True,
) -> Bin:
    """Return a bin in which every request has as many tokens, give or take a spread of 1."""
    counts = np.array(list(requests.values()), dtype=np.float64)
    return Bin(
        dimension,
        START_MS + (number + 1) * BIN_MS,
        tuple(requests),
        counts,
        counts * tokens_each,
        counts * tokens_each,
        2.0 * counts * tokens_each**2,
        np.ceil(counts / 3),
        np.array([(errors or {}).get(value, 0.0) for value in requests]),
        is_complete,
    )


class Market:
    """Bins of a made market, with Poisson noise from a seed; shares are changed by the test."""

    def __init__(self, shares: Mapping[str, float] = SHARES, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.shares = dict(shares)
        self.requests = float(REQUESTS)
        self.number = 0

    def bins(self, count: int, dimension: str = "vendor") -> Iterator[dict[str, Bin]]:
        """Return the next bins."""
        for _ in range(count):
            drawn = {
                value: float(self.rng.poisson(self.requests * share))
                for value, share in self.shares.items()
            }
            drawn = {value: requests for value, requests in drawn.items() if requests}
            yield {dimension: make_bin(self.number, drawn, dimension=dimension)}
            self.number += 1

    def change(self, value: str, factor: float) -> None:
        """Multiply one value's weight; the others share the rest as before."""
        weights = {**self.shares, value: self.shares[value] * factor}
        total = sum(weights.values())
        self.shares = {name: weight / total for name, weight in weights.items()}


def feed(detector: MarketDetector, bins: Iterator[dict[str, Bin]]) -> list[Transition]:
    """Return all that the detector says of these bins."""
    return [said for each in bins for said in detector.observe(each)]


def warm(market: Market, days: float = 2, parameters: Parameters | None = None) -> MarketDetector:
    """Return a detector that has seen a quiet market; it must have said nothing."""
    detector = MarketDetector(parameters or Parameters())
    assert feed(detector, market.bins(int(days * DAY))) == []
    return detector


def told(said: Sequence[Transition]) -> list[tuple[Kind, State, str, str]]:
    """Return what matters of transitions."""
    return [(each.kind, each.state, each.value, each.direction) for each in said]


FIRING, RESOLVED, REBASELINED = State.FIRING, State.RESOLVED, State.REBASELINED
CHANGE = Kind.SHARE_CHANGE
