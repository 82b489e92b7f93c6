"""Sentences that a person can read at 3 a.m."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.share_alert import (
    Account,
    Breakdown,
    Completeness,
    Contribution,
    Volume,
)
from streams.alerts.sentences import clock, percent, sentence, series_name
from tests.alert_examples import alert, explained


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {},
            "Vendor openai fell from 31.2 % to 18.4 % of tokens since 14:05 UTC"
            " (95 %: 17.1 % to 19.8 %): its own requests fell 46 %, the others did not change;"
            " 78 % of it in region us-east.",
        ),
        (
            {"explanation": None, "share_low": None},
            "Vendor openai fell from 31.2 % to 18.4 % of tokens since 14:05 UTC.",
        ),
        (
            {"state": "resolved", "share_after": 0.308, "at": "2026-11-24T15:05:00Z"},
            "Resolved at 15:05 UTC after 60 min: vendor openai is back at 30.8 % of tokens.",
        ),
        (
            {"state": "rebaselined", "at": "2026-11-24T20:05:00Z"},
            "Vendor openai has stayed at 18.4 % of tokens for 6 h: that is the new normal.",
        ),
        (
            {"state": "suppressed", "suppressed_by": "feedbeef" * 4},
            "Vendor openai fell from 31.2 % to 18.4 % of tokens since 14:05 UTC;"
            " part of alert feedbeef.",
        ),
        (
            {"kind": "ingest_lag", "dimension": "", "value": "", "direction": ""},
            "Data is late or missing since 14:05 UTC: shares are not judged until it has come.",
        ),
        (
            {
                "kind": "rule",
                "rule": "China above 30 %",
                "dimension": "origin",
                "value": "chinese_open",
                "direction": "up",
                "share_after": 0.312,
                "threshold": 0.3,
                "parameters": {"measure": "token_share"},
                "explanation": None,
            },
            "Rule China above 30 %: chinese open models at 31.2 % of tokens,"
            " above 30.0 % since 14:05 UTC.",
        ),
    ],
)
def test_what_a_transition_says(changes: dict[str, Any], expected: str) -> None:
    """Who, from what to what, since when, and why."""
    assert sentence(alert(**changes)) == expected


@pytest.mark.parametrize(
    ("dimension", "value", "expected"),
    [
        ("origin", "chinese_open", "Chinese open models have stayed"),
        ("country", "CN", "Vendors from CN have stayed"),
        ("model", "other", "All smaller models together have stayed"),
        ("model", "acme/large", "Model acme/large has stayed"),
    ],
)
def test_many_have_and_one_has(dimension: str, value: str, expected: str) -> None:
    """Verbs agree with their subject."""
    text = sentence(alert(state="rebaselined", dimension=dimension, value=value))
    assert text.startswith(expected)


def test_others_that_grew_are_told_as_such() -> None:
    """A share that fell because others grew does not read as if the vendor had lost anything."""
    found = explained(
        cause="others_volume",
        own_after=Volume(301.0, 601_000.0, 3.0),
        others_after=Volume(1_100.0, 2_600_000.0, 7.0),
    )
    assert "the others' requests grew 57 %, its own did not change" in sentence(
        alert(explanation=found)
    )


def test_longer_answers_are_told_as_such() -> None:
    """Tokens per request moved, requests did not."""
    found = explained(
        cause="tokens_per_request",
        own_after=Volume(300.0, 960_000.0, 3.0),
        share_after=0.42,
    )
    text = sentence(alert(explanation=found, share_after=0.42, direction="up"))
    assert "its tokens per request grew 60 %, its requests did not change" in text


def test_one_account_is_named_before_all_else() -> None:
    """What one account did is not the market."""
    found = explained(account=Account("feedbeef00000000", 0.83))
    text = sentence(alert(explanation=found))
    assert "one account (feedbeef) made 83 % of it" in text
    assert "us-east" not in text


def test_a_value_that_everything_has_explains_nothing() -> None:
    """The only provider of a vendor is not why; several equal regions are told as such."""
    even = tuple(Contribution(name, 0.1, 0.06, -0.04) for name in ("a", "b", "c"))
    found = explained(
        share_before=0.3,
        share_after=0.18,
        breakdowns=(
            Breakdown("region", even),
            Breakdown("provider", (Contribution("openai", 0.3, 0.18, -0.12),)),
        ),
    )
    assert sentence(alert(explanation=found)).endswith("across all its regions.")


def test_doubts_about_the_data_are_told() -> None:
    """Missing partitions, late events and open windows are said with the alert."""
    found = explained(completeness=Completeness(False, 4, 3, 0.05))
    text = sentence(alert(explanation=found))
    assert "the data is not complete yet" in text
    assert "data from 3 of 4 partitions only" in text
    assert "5.0 % of the events came late" in text


def test_an_outage_tells_requests_and_errors() -> None:
    """A provider's outage is told by what it serves."""
    found = explained(
        measure="requests",
        own_after=Volume(30.0, 10_000.0, 18.0),
        share_after=0.04,
    )
    text = sentence(
        alert(kind="provider_outage", dimension="provider", value="azure", explanation=found)
    )
    assert text == (
        "Provider azure is failing since 14:05 UTC: its requests fell 90 %; errors 1.0 % before,"
        " 60.0 % now; its share of requests went from 31.2 % to 4.0 %."
    )


def test_all_traffic_is_told_in_requests() -> None:
    """A drop of everything is no share change."""
    found = explained(
        own_before=Volume(1000.0, 0.0, 0.0),
        own_after=Volume(300.0, 0.0, 0.0),
        others_before=Volume(0.0, 0.0, 0.0),
        others_after=Volume(0.0, 0.0, 0.0),
        share_before=1.0,
        share_after=0.3,
        breakdowns=(
            Breakdown(
                "region", (Contribution("eu", 0.5, 0.0, -0.5), Contribution("us", 0.5, 0.3, -0.2))
            ),
        ),
    )
    text = sentence(alert(kind="total_drop", dimension="", value="", explanation=found))
    assert text == (
        "All traffic fell 70 % since 14:05 UTC, from 1,000 to 300 requests per minute;"
        " 71 % of it in region eu."
    )


def test_another_day_is_named() -> None:
    """A change that began before midnight has its date."""
    assert clock("2026-11-23T23:55:00Z", "2026-11-24T00:10:00Z") == "23 Nov 23:55 UTC"
    assert clock("2026-11-24T00:05:00Z", "2026-11-24T00:10:00Z") == "00:05 UTC"


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.184, "18.4 %"), (0.0073, "0.73 %"), (1.0, "100 %"), (0.0, "0 %"), (0.00051, "0.051 %")],
)
def test_percent(share: float, expected: str) -> None:
    """Small shares keep two digits that say something."""
    assert percent(share) == expected


def test_names_of_series() -> None:
    """Each dimension reads as English."""
    assert series_name("vendor_region", "openai|us-east") == "Vendor openai in us-east"
    assert series_name("model", "other") == "All smaller models together"
    assert series_name("country", "CN") == "Vendors from CN"


KINDS = [
    "share_change",
    "provider_outage",
    "total_drop",
    "total_jump",
    "ingest_lag",
    "new_model",
    "rule",
]
amounts = st.just(0.0) | st.floats(0.01, 1e9)  # Per minute: one request in an hour and more.
volumes = st.builds(Volume, amounts, amounts, amounts)


@given(
    kind=st.sampled_from(KINDS),
    state=st.sampled_from(["firing", "resolved", "rebaselined", "suppressed"]),
    explanation=st.none()
    | st.builds(
        lambda own, after, others, cause: explained(
            own_before=own, own_after=after, others_before=others, cause=cause
        ),
        volumes,
        volumes,
        volumes,
        st.sampled_from(["own_volume", "others_volume", "own_and_others", "tokens_per_request"]),
    ),
    share=st.floats(0, 1),
)
def test_every_kind_in_every_state_is_one_sentence(
    kind: str, state: str, explanation: Any, share: float
) -> None:
    """It ends with one full stop, holds no placeholder, and is short."""
    text = sentence(
        alert(
            kind=kind,
            state=state,
            explanation=explanation,
            share_after=share,
            rule="r" if kind == "rule" else "",
            parameters={"measure": "token_share"},
        )
    )
    assert text.endswith(".")
    assert not text.endswith("..")
    assert "None" not in text
    assert not re.search(r"[{}]|nan|inf\b", text)
    assert len(text) < 320
