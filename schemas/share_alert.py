"""The share alert: the value of a record of topic llm-share-alerts-v1 and a row of share_alerts.

One record per transition of an alert. ``schemas/share_alert/v1.json`` is the same as a JSON Schema.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import orjson

SCHEMA_FILE = Path(__file__).parent / "share_alert" / "v1.json"
SCHEMA_VERSION = 1

Kind = Literal[
    "share_change",
    "provider_outage",
    "total_drop",
    "total_jump",
    "ingest_lag",
    "new_model",
    "rule",
]
State = Literal["firing", "resolved", "rebaselined", "suppressed"]
Direction = Literal["up", "down", ""]
Cause = Literal["own_volume", "others_volume", "own_and_others", "tokens_per_request", ""]
ON_STATES: tuple[State, ...] = ("firing", "suppressed")
"""States of an alert that has not ended; ``suppressed`` is on, but another alert explains it."""


@dataclass(frozen=True)
class Volume:
    """Means of a period, per minute.

    Attributes:
        errors: Requests whose status is not ok.
    """

    requests: float
    tokens: float
    errors: float


@dataclass(frozen=True)
class Contribution:
    """What one value of a second dimension brings to the share of the series.

    Attributes:
        share_before, share_after: Its tokens (or requests) within the series as a part of those of
            the whole market, 0 to 1. Over all values of a breakdown they sum to the series' share.
        change: ``share_after - share_before``.
    """

    value: str
    share_before: float
    share_after: float
    change: float


@dataclass(frozen=True)
class Breakdown:
    """The change of a share by a second dimension, largest contribution first.

    Attributes:
        contributions: The last one is ``(rest)`` when there are more values than are listed.
    """

    dimension: str
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class Account:
    """The account that moved most.

    Attributes:
        user_hash: 16 hexadecimal digits, as stored.
        part: Its part of the change of the series' share; may be above 1 when others moved against it.
    """

    user_hash: str
    part: float


@dataclass(frozen=True)
class Completeness:
    """How complete the stored data was when the alert was explained.

    Attributes:
        is_complete: The window said so: the watermark of every partition had passed its end.
        partitions_before, partitions_after: Kafka partitions that events of the period came from.
        late_ratio: Part of the events after the change that were flagged late.
    """

    is_complete: bool
    partitions_before: int
    partitions_after: int
    late_ratio: float


@dataclass(frozen=True)
class Explanation:
    """Why a share moved: two periods of stored events compared.

    Attributes:
        before_from, after_from, after_to: ISO 8601 UTC. The periods are ``[before_from, after_from)``
            and ``[after_from, after_to)``.
        measure: What the shares below are of.
        share_before, share_after: Of the series in the two periods, 0 to 1.
        cause: What moved the share.
        breakdowns: Each adds up to ``share_after - share_before``.
        query: SQL that shows the series around the change.
    """

    before_from: str
    after_from: str
    after_to: str
    measure: Literal["tokens", "requests"]
    share_before: float
    share_after: float
    own_before: Volume
    own_after: Volume
    others_before: Volume
    others_after: Volume
    cause: Cause
    breakdowns: tuple[Breakdown, ...]
    account: Account | None
    completeness: Completeness
    query: str


@dataclass(frozen=True)
class ShareAlert:
    """One transition of an alert.

    Attributes:
        alert_id: 32 hexadecimal digits, the same for all transitions of an alert.
        version: Number of the transition, from 1. ``(alert_id, version)`` never changes.
        since: ISO 8601 UTC: start of the first five minutes of the change.
        at: ISO 8601 UTC: end of the five minutes that made the transition.
        share_before, share_after: Of tokens, 0 to 1; null where the kind has none.
        share_low, share_high: 95 % interval of ``share_after``.
        rule: Name of a rule by hand; empty else.
        suppressed_by: The alert that explains this one, in state suppressed.
        parameters: The detector's parameters, or the rule's lines.
        explanation: Null when it could not be had, or does not apply.
    """

    schema_version: int
    alert_id: str
    version: int
    kind: Kind
    state: State
    dimension: str
    value: str
    direction: Direction
    rule: str
    since: str
    at: str
    share_before: float | None
    share_after: float | None
    share_low: float | None
    share_high: float | None
    requests_share_before: float | None
    requests_share_after: float | None
    statistic: float | None
    threshold: float | None
    suppressed_by: str
    parameters_version: str
    parameters: dict[str, Any]
    explanation: Explanation | None
    sentence: str

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What it is about. At most one alert of a key is firing at a time."""
        return self.kind, self.dimension, self.value, self.direction, self.rule

    @property
    def is_on(self) -> bool:
        """Whether it has not ended."""
        return self.state in ON_STATES

    @property
    def idempotency_key(self) -> str:
        """Names this transition for receivers that may see it twice."""
        return f"{self.alert_id}-{self.version}"

    @property
    def since_ms(self) -> int:
        return epoch_ms(self.since)

    @property
    def at_ms(self) -> int:
        return epoch_ms(self.at)


def encode(alert: ShareAlert) -> bytes:
    """Return the JSON of an alert."""
    return orjson.dumps(alert)


def decode(value: bytes) -> ShareAlert:
    """Return the alert of a JSON text; members that are not known are ignored.

    Raises:
        msgspec.ValidationError: A member is missing or has another type.
        msgspec.DecodeError: It is not JSON.
    """
    return msgspec.json.decode(value, type=ShareAlert)


def decode_explanation(value: bytes) -> Explanation | None:
    """Return the explanation of a JSON text, ``null`` included; raises as `decode`."""
    return msgspec.json.decode(value, type=Explanation | None)


def without_explanation(alert: ShareAlert) -> ShareAlert:
    """Return the alert without the part that is long."""
    return replace(alert, explanation=None)


def iso(time_ms: int) -> str:
    """Return epoch milliseconds as ISO 8601 UTC, such as ``2026-11-24T16:05:00Z``."""
    at = datetime.fromtimestamp(time_ms / 1000, UTC)
    digits = "milliseconds" if time_ms % 1000 else "seconds"
    return at.isoformat(timespec=digits).replace("+00:00", "Z")


def epoch_ms(text: str) -> int:
    """Return ISO 8601 as epoch milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
