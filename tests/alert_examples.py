"""Alerts for tests."""

from dataclasses import replace
from typing import Any

from schemas.share_alert import (
    Account,
    Breakdown,
    Completeness,
    Contribution,
    Explanation,
    ShareAlert,
    Volume,
)

EXPLANATION = Explanation(
    before_from="2026-11-24T13:05:00Z",
    after_from="2026-11-24T14:05:00Z",
    after_to="2026-11-24T14:20:00Z",
    measure="tokens",
    share_before=0.312,
    share_after=0.184,
    own_before=Volume(300.0, 600_000.0, 3.0),
    own_after=Volume(162.0, 324_000.0, 2.0),
    others_before=Volume(700.0, 1_300_000.0, 7.0),
    others_after=Volume(702.0, 1_310_000.0, 7.0),
    cause="own_volume",
    breakdowns=(
        Breakdown(
            "region",
            (
                Contribution("us-east", 0.15, 0.05, -0.1),
                Contribution("eu", 0.162, 0.134, -0.028),
            ),
        ),
        Breakdown("provider", (Contribution("openai", 0.312, 0.184, -0.128),)),
    ),
    account=Account("00000000000000ff", 0.02),
    completeness=Completeness(True, 4, 4, 0.0),
    query="SELECT 1",
)
ALERT = ShareAlert(
    schema_version=1,
    alert_id="0123456789abcdef0123456789abcdef",
    version=1,
    kind="share_change",
    state="firing",
    dimension="vendor",
    value="openai",
    direction="down",
    rule="",
    since="2026-11-24T14:05:00Z",
    at="2026-11-24T14:20:00Z",
    share_before=0.312,
    share_after=0.184,
    share_low=0.171,
    share_high=0.198,
    requests_share_before=0.3,
    requests_share_after=0.19,
    statistic=-7.1,
    threshold=5.5,
    suppressed_by="",
    parameters_version="abc",
    parameters={"threshold": 5.5},
    explanation=EXPLANATION,
    sentence="Vendor openai fell.",
)


def alert(**changes: Any) -> ShareAlert:
    """Return the example with changes."""
    return replace(ALERT, **changes)


def explained(**changes: Any) -> Explanation:
    """Return its explanation with changes."""
    return replace(EXPLANATION, **changes)
