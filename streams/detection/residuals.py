"""How far windows of counts lie from what was expected, in standard deviations. Pure functions.

A series' counts ``x`` over a window are compared with its expected share of all counts, ``e``. If one
series changes, every share moves, because shares sum to 1; so the comparison is with the *centre*: how
much the series that have not changed moved together. Only what did change is far from it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.detection.bins import Floats

Mask = npt.NDArray[np.bool_]

HALF = 0.5
"""Counts get half a request, so that none has a logarithm."""
OUTLIER_SD = 3.0
CENTRE_WEIGHT_MIN = 0.3
"""If fewer expected counts than this part belong to series that stayed, the median is the centre."""
TOKENS_COUNT_MIN = 4.0
"""Fewest effective requests (Kish) expected in a window whose capped tokens are tested."""
LENGTH_REQUESTS_MIN = 40.0
"""Fewest requests in a window whose tokens per request are tested."""


@dataclass(frozen=True)
class Residuals:
    """Windows of several lengths against expectation; ``[lengths, 2, series]`` or with 3 signals.

    Attributes:
        log_ratio: Signal 0 requests, 1 capped tokens, 2 capped tokens per request: logarithm of
            observed over expected, without the centre. ``[lengths, 3, series]``.
        sampling: Variance of ``log_ratio`` that comes from the number of requests alone.
        z: ``log_ratio`` in standard deviations, nearly normal also for few requests.
        is_known: Whether there were enough requests to say something.
    """

    log_ratio: Floats
    sampling: Floats
    z: Floats
    is_known: Mask


def residuals(
    observed: Floats, expected: Floats, between: Floats, spread: Floats, is_out: Mask
) -> Residuals:
    """Compare windows with expectation.

    Args:
        observed: Requests, and capped tokens in units of effective requests,
            ``[lengths, 2, series]``.
        expected: The same by the baseline.
        between: Variance of ``log_ratio`` beyond sampling, ``[lengths, 3, series]``.
        spread: Squared coefficient of variation of capped tokens per request, ``[series]``.
        is_out: Series that must not define the centre, ``[series]``.
    """
    centre = centres(observed, expected, between[:, :2], is_out)
    usual = expected * np.exp(centre)
    ratio = np.log((observed + HALF) / (usual + HALF))
    z = _deviance(observed, usual) / np.sqrt(1.0 + usual * between[:, :2])
    requests = observed[:, 0]
    length = ratio[:, 1] - ratio[:, 0]
    is_known = np.ones((len(ratio), 3, ratio.shape[-1]), dtype=np.bool_)
    is_known[:, 1] = usual[:, 1] >= TOKENS_COUNT_MIN
    is_known[:, 2] = np.minimum(requests, usual[:, 0]) >= LENGTH_REQUESTS_MIN
    length_sampling = spread / (requests + HALF)
    length_z = length / np.sqrt(length_sampling + between[:, 2])
    return Residuals(
        np.concatenate([ratio, length[:, None]], axis=1),
        np.concatenate([1.0 / (usual + HALF), length_sampling[:, None]], axis=1),
        np.concatenate([z, length_z[:, None]], axis=1),
        is_known,
    )


def _deviance(observed: Floats, usual: Floats) -> Floats:
    """Return how far counts are from what is usual, in deviations of a Poisson variable.

    Upwards by square roots (Anscombe 1948), which are careful with the long upper tail of tokens; and
    downwards by roots of the deviance with a continuity correction (Pierce and Schafer 1986), since
    square roots make too much of a bin without any: 0 of 10 is -4.0 here, -3.9 by the exact
    probability, -5.2 by square roots.
    """
    usual = np.maximum(usual, 1e-9)
    root = 2.0 * (np.sqrt(observed + 0.375) - np.sqrt(usual + 0.375))
    nearer = np.minimum(observed + HALF, usual)
    twice = 2.0 * (nearer * np.log(nearer / usual) + usual - nearer)
    return np.asarray(np.where(observed > usual, root, -np.sqrt(np.maximum(twice, 0.0))))


def centres(observed: Floats, expected: Floats, between: Floats, is_out: Mask) -> Floats:
    """Return how the others that stayed where they were moved, for each ``[lengths, 2, series]``.

    The first guess is the median of the log ratios, weighted by what was expected; whatever is far from
    it is left out, and the rest is pooled, which is calmer than a median of few large series. A series
    is never part of its own centre: it would hide a part of its change, until it is far, then not.
    """
    ratio = np.log((observed + HALF) / (expected + HALF))
    order = np.argsort(ratio, axis=-1)
    weighing = expected * ~is_out if not is_out.all() else expected
    weight = np.cumsum(np.take_along_axis(weighing, order, axis=-1), axis=-1)
    middle = (weight < 0.5 * weight[..., -1:]).sum(axis=-1, keepdims=True)
    place = np.take_along_axis(order, np.minimum(middle, order.shape[-1] - 1), axis=-1)
    median = np.take_along_axis(ratio, place, axis=-1)
    far = np.abs(ratio - median) > OUTLIER_SD * np.sqrt(1.0 / (expected + HALF) + between)
    # Both signals leave out the same series, or their difference would jump where one just did.
    stayed = ~(far.any(axis=1, keepdims=True) | is_out)
    kept, seen = expected * stayed, observed * stayed
    rest = kept.sum(axis=-1, keepdims=True) - kept
    pooled = np.log((seen.sum(axis=-1, keepdims=True) - seen + HALF) / (rest + HALF))
    others = expected.sum(axis=-1, keepdims=True) - expected
    is_enough = (rest >= CENTRE_WEIGHT_MIN * others).all(axis=1, keepdims=True)
    return np.where(is_enough, pooled, median)
