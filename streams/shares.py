"""Shares in billionths, which sum to exactly 1."""

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

BILLION = 1_000_000_000


def billionths(parts: Int64s) -> Int64s:
    """Return the share of each part in billionths; zero throughout if there is nothing.

    Each is the difference of two running quotients, rounded half up, so that they telescope to
    exactly one billion and each is within one billionth of its quotient: the same rule as the
    ``share_by_*`` views. Python's integers, because a total in 1e-9 USD times a billion is beyond 64
    bits.
    """
    total = int(parts.sum())
    if total == 0:
        return np.zeros(len(parts), dtype=np.int64)
    running = [(2 * BILLION * int(part) + total) // (2 * total) for part in np.cumsum(parts)]
    ends = np.array([0, *running], dtype=np.int64)
    return ends[1:] - ends[:-1]
