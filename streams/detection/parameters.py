"""Everything that decides what the detector says, besides what it is fed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

BIN_MS = 300_000
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Parameters:
    """Settings of a detector, hashable by content (``version``) and JSON-able.

    ``thresholds`` come from ``calibrate``; the rest are choices made on development worlds
    (``tests/benchmarks/ALERTS.md``).
    """

    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Threshold of the statistic by dimension, in standard deviations."""
    threshold: float = 5.5
    """Threshold of dimensions that ``thresholds`` does not name."""
    effect_min: float = 0.15
    """Smallest change that is worth an alert: natural logarithm of after over before."""
    requests_min: float = 3.0
    """Fewest expected requests in a bin; series below it are tested together, as ``other``."""
    series_max: int = 500
    """Series kept per dimension; beyond it, those not seen for the longest are forgotten."""

    @property
    def version(self) -> str:
        """Short hash of all values: which detector said something."""
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def threshold_of(self, dimension: str) -> float:
        """Return the threshold of a dimension's share changes."""
        return self.thresholds.get(dimension, self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """Return the values as JSON knows them."""
        values = dataclasses.asdict(self)
        values["thresholds"] = dict(sorted(self.thresholds.items()))
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return parameters from ``as_dict``; what is not named has its default.

        Raises:
            ValueError: If a name is unknown.
        """
        unknown = values.keys() - {each.name for each in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"unknown parameters: {', '.join(sorted(unknown))}")
        return cls(**values)
