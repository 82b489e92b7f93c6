"""Replays: published sums, exactly; the published facts of the traces."""

import json
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest

from deploy.local.published import DATA, PublishedDay, azure_requests, openrouter_days
from deploy.local.replay import azure
from deploy.local.replay.openrouter import Replay, scaled_tokens
from deploy.local.simulator.population import Population
from deploy.local.simulator.world import openrouter_world
from schemas.catalogue import load_shipped
from schemas.usage_event import decode

DAYS = openrouter_days()
EVENTS_PER_DAY = 2_000


def replay_of(events_per_day: int = EVENTS_PER_DAY) -> Replay:
    catalogue = load_shipped()
    world = openrouter_world(DAYS, catalogue, seed=1, drift_scale=0)
    return Replay(DAYS, events_per_day, world, Population(1), catalogue)


def events_of(replay: Replay, last_days: int) -> list[dict[str, Any]]:
    return [
        json.loads(value)
        for _, block in replay.blocks(replay.first_number(last_days))
        for value in block.values
    ]


def test_the_published_days_are_all_there() -> None:
    """91 days without a gap, 50 models and the rest each, as the attribution says."""
    assert (DAYS[0].date, DAYS[-1].date, len(DAYS)) == ("2026-05-23", "2026-08-21", 91)
    assert {len(day.models) for day in DAYS} == {51}
    assert {day.models[-1] for day in DAYS} == {"other"}
    assert sum(sum(day.tokens) for day in DAYS) == 698_720_610_375_920


def test_tokens_per_model_and_day_are_the_published_ones_scaled() -> None:
    """Over all 91 days every model's tokens are exactly its scaled tokens, and none is missing."""
    replay = replay_of(1_000)
    found: Counter[tuple[str, str]] = Counter()
    per_day: Counter[str] = Counter()
    for event in events_of(replay, 91):
        date = event["occurred_at"][:10]
        found[date, event["model_raw"]] += event["tokens_prompt"] + event["tokens_completion"]
        per_day[date] += 1
    assert set(per_day.values()) == {1_000}
    assert found == {
        (day.date, name): tokens
        for day in DAYS
        for name, tokens in zip(day.models, scaled_tokens(day, replay.divisor), strict=True)
    }


@pytest.mark.parametrize("events_per_day", [1_000, 20_000, 55_000])
def test_shares_are_the_published_ones(events_per_day: int) -> None:
    """Scaled to whole tokens, each share of a day is within 0.0001 of the published column."""
    published = pl.read_csv(DATA / "openrouter_daily" / "rankings_daily.csv")
    shares = {(row[0], row[2]): row[4] for row in published.rows()}
    divisor = replay_of(events_per_day).divisor
    for day in DAYS:
        tokens = scaled_tokens(day, divisor)
        for name, part in zip(day.models, tokens, strict=True):
            assert abs(part / sum(tokens) - shares[day.date, name]) < 1e-4


@pytest.mark.parametrize("divisor", [1, 7, 6_433, 354_000])
def test_scaling_loses_nothing(divisor: int) -> None:
    """A day's parts add up to its rounded total, each within one token of exact."""
    for day in DAYS:
        parts = scaled_tokens(day, divisor)
        assert sum(parts) == round(Fraction(sum(day.tokens), divisor))
        exact = [Fraction(tokens, divisor) for tokens in day.tokens]
        assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))


def test_the_default_is_five_million_events_of_realistic_length() -> None:
    """55,000 a day make at least 5 million, with OpenRouter's mean length of 21,700 tokens."""
    summary = replay_of(55_000).summary(91)
    events = summary["events_per_day"] * summary["days"]
    assert events >= 5_000_000
    assert summary["replayed_tokens"] / events == pytest.approx(21_700, rel=0.01)
    assert summary["factor"] == 1 / summary["divisor"]


def test_a_day_does_not_depend_on_how_many_are_replayed() -> None:
    """Ids and bytes of the last day are the same alone and after others: a repeat is a re-send."""
    replay = replay_of()
    alone = [b for _, b in replay.blocks(replay.first_number(1))]
    among = [b for _, b in replay_of().blocks(replay.first_number(3))]
    assert [v for b in alone for v in b.values] == [v for b in among for v in b.values][-2_000:]


def test_replayed_events_are_valid_distinct_and_in_order() -> None:
    """Every event passes the strict decoder; ids never repeat; times rise within the day."""
    replay = replay_of()
    now_ms = DAYS[-1].start_ms + 2 * 86_400_000
    events = [
        decode(value, append_time_ms=now_ms)
        for _, block in replay.blocks(replay.first_number(2))
        for value in block.values
    ]
    assert {event.quality for event in events} == {()}
    assert {event.status for event in events} == {"ok"}
    assert len({event.event_id for event in events}) == len(events) == 4_000
    times = [event.occurred_at_ms for event in events]
    assert times == sorted(times)
    assert times[0] >= DAYS[-2].start_ms


def test_what_nobody_published_stays_unknown() -> None:
    """The row `other` is sent under a name that resolves to no model."""
    assert load_shipped().resolve("other") is None
    names = {event["model_raw"] for event in events_of(replay_of(), 1)}
    assert names == set(DAYS[-1].models)


def test_a_tiny_model_still_gets_an_event() -> None:
    """One event at least per row of the ranking, whatever its share."""
    lopsided = PublishedDay(
        DAYS[-1].date, DAYS[-1].start_ms, DAYS[-1].models, (10**15, *DAYS[-1].tokens[1:])
    )
    replay = replay_of()
    changed = Replay([lopsided], 1_000, replay.world, replay.population, replay.catalogue)
    assert {event["model_raw"] for event in events_of(changed, 1)} == set(DAYS[-1].models)


FACTS = [  # Of the published traces: mean, p50, p99, largest.
    ("code", "tokens_prompt", 8_819, 2_048, 1_469, 7_436, 7_437),
    ("code", "tokens_completion", 8_819, 28, 13, 252, 1_899),
    ("conv", "tokens_prompt", 19_366, 1_155, 1_020, 4_142, 14_050),
    ("conv", "tokens_completion", 19_366, 211, 129, 601, 1_000),
]


@pytest.mark.parametrize(("trace", "column", "rows", "mean", "p50", "p99", "largest"), FACTS)
def test_azure_traces_have_their_published_facts(
    trace: str, column: str, rows: int, mean: int, p50: int, p99: int, largest: int
) -> None:
    """Counts, means and percentiles of what is sent are those published."""
    events = [json.loads(value) for block in azure.blocks() for value in block.values]
    tokens = np.array([event[column] for event in events if event["app_id"] == f"azure-{trace}"])
    assert len(tokens) == rows
    assert round(float(tokens.mean())) == mean
    assert round(float(np.percentile(tokens, 50, method="inverted_cdf"))) == p50
    assert round(float(np.percentile(tokens, 99, method="inverted_cdf"))) == p99
    assert tokens.max() == largest


def test_azure_events_are_valid_unknown_and_in_order() -> None:
    """Each request is one valid event of an unknown model at its own time, to the millisecond."""
    (first_line,) = azure_requests("code")[:1].rows()
    values = [value for block in azure.blocks() for value in block.values]
    events = [decode(value, append_time_ms=DAYS[0].start_ms) for value in values]
    assert {event.quality for event in events} == {("late",)}
    assert load_shipped().resolve(azure.MODEL_NAME) is None
    times = [event.occurred_at_ms for event in events]
    assert times == sorted(times)
    by_id = {event.event_id: event for event in events}
    assert len(by_id) == 28_185
    first = by_id["other:azure-2023-code-1"]
    assert (first.occurred_at_ms, first.tokens_prompt, first.tokens_completion) == first_line
    assert first_line == (1_700_158_623_979, 4_808, 10)
