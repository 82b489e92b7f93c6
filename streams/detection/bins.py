"""What the detector sees: one closed window of one dimension as columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[Any]
"""One number per value; whole numbers or float64."""

OTHER = "other"
"""The row that holds all values outside the top of this window."""


@dataclass(frozen=True, eq=False)
class Bin:
    """One tumbling window of one dimension; a row per value that had requests.

    Attributes:
        dimension: Such as ``vendor`` or ``model``.
        end_ms: Exclusive end of the window, epoch milliseconds UTC, a multiple of its length.
        values: Names of the rows, each once. ``other`` is the rest outside the top,
            ``unknown`` a value like any other.
        requests: Requests.
        tokens: Prompt and completion tokens.
        tokens_capped: Sum over requests of ``min(tokens, cap)``.
        tokens_capped_squared: Sum over requests of ``min(tokens, cap) ** 2``.
        users: Estimate of distinct users.
        errors: Requests whose status is not ok.
        is_complete: Whether every partition's watermark had passed the end.

    Raises:
        ValueError: If a column has another length than ``values``.
    """

    dimension: str
    end_ms: int
    values: tuple[str, ...]
    requests: Numbers
    tokens: Numbers
    tokens_capped: Numbers
    tokens_capped_squared: Numbers
    users: Numbers
    errors: Numbers
    is_complete: bool = True

    def __post_init__(self) -> None:
        for name in (
            "requests",
            "tokens",
            "tokens_capped",
            "tokens_capped_squared",
            "users",
            "errors",
        ):
            if len(getattr(self, name)) != len(self.values):
                raise ValueError(f"bin of {self.dimension}: {name} is not as long as its values")
