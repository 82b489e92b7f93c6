"""What the detector says: alerts that begin, end, or are silenced by a larger one."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What an alert is about. ``RULE`` alerts are made elsewhere, in the same form."""

    SHARE_CHANGE = "share_change"
    PROVIDER_OUTAGE = "provider_outage"
    TOTAL_DROP = "total_drop"
    TOTAL_JUMP = "total_jump"
    INGEST_LAG = "ingest_lag"
    NEW_MODEL = "new_model"
    RULE = "rule"


class State(StrEnum):
    """What has become of an alert.

    ``REBASELINED`` ends an alert whose new share has become the normal one. ``SUPPRESSED`` does not
    end it: it is on, but another alert explains it.
    """

    FIRING = "firing"
    RESOLVED = "resolved"
    REBASELINED = "rebaselined"
    SUPPRESSED = "suppressed"


def alert_id(kind: Kind, dimension: str, value: str, direction: str, since_ms: int) -> str:
    """Return the identity of an alert: 32 hexadecimal digits, the same wherever it is made."""
    text = "\0".join((kind, dimension, value, direction, str(since_ms)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Transition:
    """One alert's change of state at the end of a bin.

    Shares are fractions. Kinds about all traffic (``TOTAL_DROP``, ``TOTAL_JUMP``, ``INGEST_LAG``)
    have no dimension, value or shares.

    Attributes:
        direction: ``up``, ``down`` or empty.
        since_ms: Start of the first bin of the change, epoch milliseconds UTC.
        at_ms: End of the bin at which it was seen.
        share_before: Share of true tokens that the baseline expects.
        share_after: Share of true tokens since the change, of the last hour at most.
        share_low: Lower end of the 95 % interval of ``share_after``.
        share_high: Upper end.
        requests_share_before: Share of requests that the baseline expects.
        requests_share_after: Share of requests over the same time as ``share_after``.
        statistic: What was compared with ``threshold``; its sign is the direction.
        threshold: As it was for this kind and dimension.
        suppressed_by: Id of the alert that explains this one, or empty.
    """

    kind: Kind
    state: State
    dimension: str
    value: str
    direction: str
    since_ms: int
    at_ms: int
    share_before: float = 0.0
    share_after: float = 0.0
    share_low: float = 0.0
    share_high: float = 0.0
    requests_share_before: float = 0.0
    requests_share_after: float = 0.0
    statistic: float = 0.0
    threshold: float = 0.0
    suppressed_by: str = ""

    @property
    def id(self) -> str:
        """Identity of the alert: the same in all its transitions."""
        return alert_id(self.kind, self.dimension, self.value, self.direction, self.since_ms)
