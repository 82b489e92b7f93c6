"""The simulator: repeatable bytes, honest records, an exact truth."""

import json
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.local.published import openrouter_days
from deploy.local.simulator.blocks import Block, Simulator
from deploy.local.simulator.faults import MALFORMATIONS, FaultRatios, Malformation
from deploy.local.simulator.pacing import past_batches
from deploy.local.simulator.population import Population, zones
from deploy.local.simulator.records_file import RecordsFile, read_records
from deploy.local.simulator.seasons import DAY_MS, HOUR_MS, Calendar
from deploy.local.simulator.truth import Truth
from deploy.local.simulator.world import World, catalogue_world, openrouter_world
from schemas.catalogue import load_shipped
from schemas.errors import ConfigurationError, RecordError
from schemas.usage_event import decode

FROM_MS = 1_787_529_600_000  # 2026-08-24, a Monday
NO_FAULTS = FaultRatios()
FAULTS = FaultRatios(duplicates=0.02, late=0.02, malformed=0.03, unknown_model=0.02, multiline=0.01)


def market(drift: float = 0.0) -> World:
    world = openrouter_world(openrouter_days(), load_shipped(), seed=1, drift_scale=drift)
    return world.priced(load_shipped(), FROM_MS)


def blocks_of(
    world: World, events: int, faults: FaultRatios = NO_FAULTS, seed: int = 1, days: int = 1
) -> list[Block]:
    simulator = Simulator(world, Population(seed), seed, f"synthetic:{seed}-", FROM_MS, faults)
    calendar = Calendar(FROM_MS, FROM_MS + days * DAY_MS, zones())
    return list(simulator.blocks(past_batches(calendar, events, seed)))


def values_of(blocks: list[Block]) -> list[bytes]:
    return [value for block in blocks for value in block.values]


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    """Values, keys and order depend on the arguments alone."""
    first = blocks_of(market(), 25_000, FAULTS)
    again = blocks_of(market(), 25_000, FAULTS)
    other = blocks_of(market(), 25_000, FAULTS, seed=2)
    assert values_of(first) == values_of(again)
    assert [block.keys for block in first] == [block.keys for block in again]
    assert values_of(first) != values_of(other)


def test_every_event_passes_the_strict_decoder_without_a_flag() -> None:
    """A record without a fault is valid, and nothing in it has to be mended."""
    for world in (
        market(),
        catalogue_world(load_shipped(), seed=1, as_of_ms=FROM_MS, drift_scale=1),
    ):
        for value in values_of(blocks_of(world, 6_000)):
            assert decode(value, append_time_ms=FROM_MS + 2 * DAY_MS).quality == ()


def test_record_key_is_the_session() -> None:
    """The key of a record is the session hash in its value."""
    (block,) = blocks_of(market(), 2_000)
    for key, value in zip(block.keys, block.values, strict=True):
        assert json.loads(value)["session_hash"].encode() == key


def test_event_ids_are_unique_and_times_fill_the_range_in_order() -> None:
    """Ids never repeat; times rise over the whole range and stay inside it."""
    events = [json.loads(value) for value in values_of(blocks_of(market(), 30_000))]
    assert len({event["event_id"] for event in events}) == 30_000
    times = [round(datetime.fromisoformat(e["occurred_at"]).timestamp() * 1000) for e in events]
    assert times == sorted(times)
    assert FROM_MS <= times[0] < FROM_MS + HOUR_MS
    assert FROM_MS + DAY_MS - HOUR_MS < times[-1] < FROM_MS + DAY_MS


def test_token_shares_start_from_the_last_published_day() -> None:
    """Without drift, each large model's share of tokens is the published one, give or take noise."""
    truth = Truth(market().names)
    for block in blocks_of(market(), 200_000):
        truth.add(block)
    models: dict[str, Any] = truth.report()["valid"]["models"]
    tokens = {name: m["tokens_prompt"] + m["tokens_completion"] for name, m in models.items()}
    last = openrouter_days()[-1]
    for name, published in list(zip(last.models, last.tokens, strict=True))[:10]:
        expected = published / sum(last.tokens)
        assert tokens[name] / sum(tokens.values()) == pytest.approx(expected, rel=0.15)


def test_shares_drift_from_the_reference_on() -> None:
    """Drift is nil at the reference time and moves shares later; they always add up to 1."""
    world = market(drift=1.0)
    start, later = world.request_shares(np.array([FROM_MS, FROM_MS + 20 * DAY_MS]), FROM_MS)
    undrifted = market().request_shares(np.array([FROM_MS]), FROM_MS)[0]
    assert start == pytest.approx(undrifted)
    assert np.abs(later - start).max() > 0.01
    assert start.sum() == pytest.approx(1)
    assert later.sum() == pytest.approx(1)


def test_new_models_ramp_up_and_unreleased_ones_are_not_used() -> None:
    """In the world of the catalogue a model's share is 0 before its release and grows after it."""
    world = catalogue_world(load_shipped(), seed=1, as_of_ms=FROM_MS, drift_scale=0)
    row = int(np.argmax(world.released_ms))
    released = int(world.released_ms[row])
    times = np.array([released - DAY_MS, released + DAY_MS, released + 20 * DAY_MS])
    before, after, grown = world.request_shares(times, FROM_MS)[:, row]
    assert before == 0
    assert 0 < after < grown


def test_nights_and_weekends_are_quiet() -> None:
    """More events at the busiest hour than at the quietest, and on Wednesday than on Sunday."""
    calendar = Calendar(FROM_MS, FROM_MS + 7 * DAY_MS, zones())
    times = calendar.times_ms((np.arange(100_000) + 0.5) / 100_000)
    by_hour = np.bincount(times % DAY_MS // HOUR_MS)
    by_day = np.bincount((times - FROM_MS) // DAY_MS)
    assert by_hour.max() > 1.3 * by_hour.min()
    assert by_day[2] > 1.2 * by_day[6]


def test_lengths_have_heavy_tails_and_go_together() -> None:
    """The mean length is far above the median, and long prompts have longer completions."""
    events = [json.loads(value) for value in values_of(blocks_of(market(), 40_000))]
    known = [e for e in events if e["status"] == "ok"]
    prompts = np.array([e["tokens_prompt"] for e in known])
    completions = np.array([e["tokens_completion"] for e in known])
    assert prompts.mean() > 1.7 * np.median(prompts)
    assert 10_000 < (prompts + completions).mean() < 45_000
    assert np.corrcoef(np.log(prompts), np.log(completions + 1))[0, 1] > 0.2


def test_silence_is_null_not_zero() -> None:
    """Failed requests have no tokens and no cost; only gateways that bill send a cost."""
    events = [json.loads(value) for value in values_of(blocks_of(market(), 40_000))]
    failed = [e for e in events if e["status"] in ("error", "rate_limited", "timeout")]
    assert 0.01 < len(failed) / len(events) < 0.04
    assert not any("tokens_prompt" in e or "cost_nanousd" in e for e in failed)
    cost_known = sum("cost_nanousd" in e for e in events) / len(events)
    assert 0.6 < cost_known < 0.85
    assert not any("cost_nanousd" in e for e in events if e["tags"]["gateway"] == "cirrus")
    assert 0.001 < sum("category" in e for e in events) / len(events) < 0.004


def test_only_models_that_reason_report_reasoning() -> None:
    """Reasoning tokens come from models the catalogue knows to reason, inside the completion."""
    catalogue = load_shipped()
    for value in values_of(blocks_of(market(), 10_000)):
        event = json.loads(value)
        if "tokens_reasoning" in event:
            found = catalogue.resolve(event["model_raw"])
            assert found is not None
            assert found.model.reasoning in ("optional", "always")
            assert event["tokens_reasoning"] <= event["tokens_completion"]


@pytest.mark.parametrize("malformation", MALFORMATIONS, ids=lambda m: str(m.kind))
def test_malformed_values_are_refused_for_their_reason(malformation: Malformation) -> None:
    """The strict decoder refuses every kind with the reason and field the truth file promises."""
    for value in values_of(blocks_of(market(), 300)):
        with pytest.raises(RecordError) as refused:
            decode(malformation.damage(value), append_time_ms=FROM_MS + DAY_MS)
        assert (refused.value.reason, refused.value.field) == (
            malformation.reason,
            malformation.field,
        )


def test_truth_equals_a_plain_recount() -> None:
    """Counts and sums equal those found by decoding every record and comparing event ids."""
    world = market()
    blocks = blocks_of(world, 50_000, FAULTS)
    truth = Truth(world.names)
    for block in blocks:
        truth.add(block)
    report = truth.report()
    recount = plain_recount(values_of(blocks))
    assert report["records"] == recount["records"] == len(values_of(blocks))
    assert report["malformed"] == recount["malformed"] == sum(report["malformed_by_kind"].values())
    assert report["duplicates"] == recount["duplicates"]
    assert report["faults"]["unknown_model"] == recount["unknown_model"]
    assert report["faults"]["multiline"] == recount["multiline"]
    for part in ("valid", "distinct"):
        assert report[part]["models"] == recount[part]
        for measure in ("records", "tokens_prompt", "cost_nanousd", "tokens_unknown"):
            expected = sum(model[measure] for model in recount[part].values())
            assert report[part][measure] == expected
    for name in FAULTS.names:
        assert report["faults"][name] == pytest.approx(50_000 * getattr(FAULTS, name), rel=0.15)


def plain_recount(values: list[bytes]) -> dict[str, Any]:
    """Count with the standard library's JSON and the strict decoder, one record at a time."""
    seen: set[str] = set()
    parts: dict[str, defaultdict[str, Counter[str]]] = {
        "valid": defaultdict(Counter),
        "distinct": defaultdict(Counter),
    }
    counts = Counter[str]()
    for value in values:
        counts["records"] += 1
        try:
            decode(value, append_time_ms=FROM_MS + 2 * DAY_MS)
        except RecordError:
            counts["malformed"] += 1
            continue
        event = json.loads(value)
        again = event["event_id"] in seen
        seen.add(event["event_id"])
        counts["duplicates"] += again
        counts["multiline"] += b"\n" in value and not again
        counts["unknown_model"] += event["model_raw"].startswith("acme/") and not again
        for part in ["valid"] if again else ["valid", "distinct"]:
            sums = parts[part][event["model_raw"]]
            sums["records"] += 1
            sums["tokens_unknown"] += "tokens_prompt" not in event
            sums["cost_given"] += "cost_nanousd" in event
            for column in ("tokens_prompt", "tokens_completion", "tokens_reasoning",
                           "tokens_cached", "cost_nanousd"):  # fmt: skip
                sums[column] += event.get(column, 0)
    return {**counts, **{part: {k: dict(v) for k, v in m.items()} for part, m in parts.items()}}


def test_duplicates_come_later_byte_for_byte_with_the_same_key() -> None:
    """A re-sent event equals the first one and is at least half a block behind it."""
    blocks = blocks_of(market(), 60_000, FaultRatios(duplicates=0.05))
    values = values_of(blocks)
    keys = [key for block in blocks for key in block.keys]
    first: dict[bytes, int] = {}
    distances = []
    for place, value in enumerate(values):
        if value in first:
            distances.append(place - first[value])
            assert keys[place] == keys[first[value]]
        else:
            first[value] = place
    assert len(distances) == len(values) - 60_000 > 2_000
    assert min(distances) > 0


def test_late_events_are_an_hour_to_ten_days_late() -> None:
    """Only the late ones are out of order, and by a bounded time."""
    (block, *_) = blocks_of(market(), 20_000, FaultRatios(late=0.1))
    sent = block.times_ms
    times = np.array(
        [
            round(datetime.fromisoformat(json.loads(value)["occurred_at"]).timestamp() * 1000)
            for value in block.values
        ]
    )
    delay = sent - times
    late = delay > 0
    assert late.sum() == block.faults["late"] > 1_500
    assert delay[late].min() >= HOUR_MS
    assert delay[late].max() <= 10 * DAY_MS


def test_a_file_gives_back_exactly_what_was_written(tmp_path: Path) -> None:
    """Empty values, newlines and the escape byte itself survive a round trip."""
    values = [
        b"",
        b"{}",
        b"a\nb",
        b"\x1eplain",
        b"\xff\r",
        *values_of(blocks_of(market(), 500, FAULTS)),
    ]
    with RecordsFile(tmp_path / "records") as out:
        out.write(values)
    assert list(read_records(tmp_path / "records")) == values


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("duplicate=0.1", "unknown fault 'duplicate'"),
        ("late=2", "not a ratio"),
        ("late=x", "not a ratio"),
        ("late", "not a ratio"),
        ("late=0.6,malformed=0.6", "more than 1"),
    ],
)
def test_wrong_faults_are_refused_with_a_fact(text: str, fact: str) -> None:
    """A fault that does not exist or is no ratio is a configuration error."""
    with pytest.raises(ConfigurationError, match=fact):
        FaultRatios.parse(text)


def test_faults_are_read() -> None:
    """Named ratios are taken, others stay 0."""
    assert FaultRatios.parse(" duplicates=0.01, late=0.005") == FaultRatios(
        duplicates=0.01, late=0.005
    )
