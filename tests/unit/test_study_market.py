"""The study's market has the study's numbers before a single request is drawn, and draws keep them."""

from collections import Counter
from datetime import timedelta
from itertools import islice

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from deploy.local.study import tables
from deploy.local.study.events import TOP_USER, Study
from deploy.local.study.market import AUTHORS, MODELS, study_market
from deploy.local.study.users import Users
from deploy.report.published import PUBLISHED
from schemas.catalogue import load_shipped
from schemas.model import origin, size_class
from schemas.usage_event import decode

MARKET = study_market()
INSIDE = slice(tables.LEAD_IN_WEEKS, None)
CATALOGUE = load_shipped().models
FOUND = [CATALOGUE[entry.model] for entry in MARKET.entries]
ORIGINS = np.array([origin(model) for model in FOUND])
NAMES = [entry.model for entry in MARKET.entries]


def weekly(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    tokens = MARKET.tokens[INSIDE]
    found: NDArray[np.float64] = tokens[:, mask].sum(axis=1) / tokens.sum(axis=1)
    return found


def test_origins_have_the_published_means() -> None:
    """Mean of the weeks, lowest and highest week."""
    chinese, other = weekly(ORIGINS == "chinese_open"), weekly(ORIGINS == "other_open")
    assert chinese.mean() == pytest.approx(0.130, abs=1e-3)
    assert other.mean() == pytest.approx(0.137, abs=1e-3)
    assert chinese.min() == pytest.approx(0.012, abs=1e-3)
    assert 0.26 < chinese.max() < 0.30
    assert "unknown" not in ORIGINS


def test_authors_and_the_eight_models_have_their_tokens() -> None:
    """In proportion to DeepSeek's 14.37 trillions."""
    totals = MARKET.tokens[INSIDE].sum(axis=0)
    is_open = ORIGINS != "proprietary"
    vendors = np.array([model.vendor for model in FOUND])
    trillion = totals[is_open & (vendors == "deepseek")].sum() / AUTHORS["deepseek"]
    for author, wanted in AUTHORS.items():
        got = totals[is_open & (vendors == author)].sum() / trillion
        assert got == pytest.approx(wanted, rel=0.06), author
    for model, power in MODELS.items():
        got = np.log10(totals[NAMES.index(model)] / trillion * 1e6)
        assert got == pytest.approx(power, abs=0.03), model


def test_nothing_is_used_before_it_came_out() -> None:
    """No tokens before the week of the catalogue's release."""
    for column, model in enumerate(FOUND):
        first = MARKET.weeks[int(np.flatnonzero(MARKET.tokens[:, column])[0])]
        assert model.release_date is not None
        if MARKET.entries[column].start > -tables.LEAD_IN_WEEKS:
            assert str(first + timedelta(days=6)) >= model.release_date, model.model_id


def test_shares_are_shares() -> None:
    """Everything sums to one, nothing is negative."""
    assert MARKET.tokens.sum() == pytest.approx(1)
    assert MARKET.requests.sum() == pytest.approx(1)
    assert MARKET.uses.sum(axis=2) == pytest.approx(1)
    for array in (MARKET.tokens, MARKET.uses, MARKET.tools, MARKET.usd, MARKET.spike):
        assert array.min() >= 0
    assert {size_class(model) for model in FOUND if origin(model) != "proprietary"} == {
        "small", "medium", "large",
    }  # fmt: skip


def test_events_are_valid_and_the_same_again() -> None:
    """What is drawn is what the schema takes; a second run sends the same bytes."""
    study = Study(20_000)
    assert sum(study.counts) == 20_000
    first, again = (list(islice(Study(20_000).blocks(), 60)) for _ in range(2))
    assert [block.values for block in first] == [block.values for block in again]
    numbers = set()
    for block in first:
        for value, key in zip(block.values, block.keys, strict=True):
            event = decode(value, append_time_ms=2_000_000_000_000)
            numbers.add(event.event_id)
            assert orjson.loads(value)["user_hash"].encode() == key
    assert len(numbers) == sum(len(block.values) for block in first)


def test_one_account_has_the_spike() -> None:
    """In one week a tenth of all tokens are its, all of them with tool calls."""
    study = Study(400_000)
    week = tables.LEAD_IN_WEEKS + tables.SPIKE_WEEK
    before = sum(study.counts[:week])
    tokens: Counter[bool] = Counter()
    seen = 0
    for block in study.blocks():
        seen += len(block.values)
        if seen <= before:
            continue
        if seen > before + study.counts[week]:
            break
        for value in block.values:
            event = orjson.loads(value)
            is_its = event["user_hash"] == TOP_USER
            tokens[is_its] += event["tokens_prompt"] + event["tokens_completion"]
            assert not is_its or event["finish_reason"] == "tool_calls"
    assert tokens[True] / tokens.total() == pytest.approx(tables.SPIKE_SHARE, abs=0.03)


def test_cohorts_come_back_as_their_table_says() -> None:
    """Of the users of a first month, as many are active later as wanted; nobody is in two cohorts."""
    months = ["2025-05", "2025-06", "2025-07", "2025-08", "2025-09", "2025-10"]
    requests = np.full((6, 1), 80_000.0)
    users = Users(["anthropic/claude-sonnet-4"], requests, months)
    active = [set(users._active(0, number).tolist()) for number in range(6)]
    wanted = tables.COHORTS["anthropic/claude-sonnet-4"].special["2025-05"]
    for later, part in enumerate(wanted[:5], 1):
        assert len(active[0] & active[later]) / len(active[0]) == pytest.approx(part, abs=0.05)
    rng = np.random.default_rng(1)
    chosen = users.choose("2025-06", np.zeros(200_000, np.int64), rng)
    assert chosen.n_unique() == len(active[1])


def test_published_numbers_are_well_formed() -> None:
    """Each has a range that is one, and says what it is."""
    for each in PUBLISHED:
        assert each.low < each.high or each.low == each.high == 1, each.says
        assert each.sql.startswith("SELECT"), each.says
    assert len({(each.analysis, each.says) for each in PUBLISHED}) == len(PUBLISHED)
