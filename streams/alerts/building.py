"""An alert put together: what was said, what explains it, and the sentence."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from schemas.share_alert import (
    SCHEMA_VERSION,
    Direction,
    Explanation,
    Kind,
    ShareAlert,
    State,
    iso,
)
from streams.alerts.ledger import Named
from streams.alerts.sentences import sentence
from streams.detection import Kind as TransitionKind
from streams.detection import State as TransitionState
from streams.detection import Transition


def build(
    transition: Transition,
    named: Named,
    *,
    parameters_version: str,
    parameters: Mapping[str, Any],
    explanation: Explanation | None = None,
    rule: str = "",
) -> ShareAlert:
    """Return the alert of a transition, with its sentence."""
    has_share = bool(transition.dimension)
    is_rule = bool(rule)

    def share(value: float, *, applies: bool = has_share) -> float | None:
        return value if applies and math.isfinite(value) else None

    alert = ShareAlert(
        schema_version=SCHEMA_VERSION,
        alert_id=named.alert_id,
        version=named.version,
        kind=cast(Kind, str(transition.kind)),
        state=cast(State, str(transition.state)),
        dimension=transition.dimension,
        value=transition.value,
        direction=cast(Direction, transition.direction),
        rule=rule,
        since=iso(named.since_ms),
        at=iso(transition.at_ms),
        share_before=share(transition.share_before, applies=has_share and not is_rule),
        share_after=share(transition.share_after),
        share_low=share(transition.share_low, applies=has_share and not is_rule),
        share_high=share(transition.share_high, applies=has_share and not is_rule),
        requests_share_before=share(
            transition.requests_share_before, applies=has_share and not is_rule
        ),
        requests_share_after=share(
            transition.requests_share_after, applies=has_share and not is_rule
        ),
        statistic=share(transition.statistic, applies=True),
        threshold=share(transition.threshold, applies=True),
        suppressed_by=transition.suppressed_by,
        parameters_version=parameters_version,
        parameters=dict(parameters),
        explanation=explanation,
        sentence="",
    )
    return replace(alert, sentence=sentence(alert))


def transition_of(alert: ShareAlert) -> Transition:
    """Return what a detector says of an alert that is stored."""
    return Transition(
        TransitionKind(alert.kind),
        TransitionState(alert.state),
        alert.dimension,
        alert.value,
        alert.direction,
        alert.since_ms,
        alert.at_ms,
        share_before=alert.share_before or 0.0,
        share_after=alert.share_after or 0.0,
        share_low=alert.share_low or 0.0,
        share_high=alert.share_high or 0.0,
        requests_share_before=alert.requests_share_before or 0.0,
        requests_share_after=alert.requests_share_after or 0.0,
        statistic=alert.statistic or 0.0,
        threshold=alert.threshold or 0.0,
        suppressed_by=alert.suppressed_by,
    )
