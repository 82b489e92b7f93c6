"""Intervals of sampled shares: a thousand samples of a market whose truth is known."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from sinks.reconciling import Engine
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name
from tests.integration.sinks_database import ask_study, client_at, migrated, reader_at

SAMPLES = 1000
SAMPLED = 2000
"""Requests of each sample, a week of it."""
STANDS_FOR = 400
FIRST = date(2007, 1, 1)
CATEGORIES = ("programming", "roleplay", "science", "trivia")
PARTS = np.array([0.45, 0.3, 0.15, 0.1])
MEDIANS = np.array([8000, 3000, 3000, 1500])
SPREAD = 1.0
"""Standard deviation of the logarithm of a request's length."""
COVERED = (0.93, 0.97)


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    """A reader of a database with one sample a week."""
    database = fresh_name("sampled")
    rng = np.random.default_rng(2026)
    sampled: list[tuple[Any, ...]] = []
    for week in range(SAMPLES):
        drawn = rng.choice(len(CATEGORIES), SAMPLED, p=PARTS)
        lengths = rng.lognormal(np.log(MEDIANS)[drawn], SPREAD).astype(np.uint64) + 1
        for at, name in enumerate(CATEGORIES):
            mine = lengths[drawn == at]
            squares = int((mine * mine).sum())
            day = FIRST + timedelta(days=7 * week)
            sampled.append((day, name, len(mine), int(mine.sum()), squares))
    with migrated(clickhouse, database) as writer:
        engine = Engine(writer, database)
        names = ("day", "category", "requests", "tokens_prompt", "tokens_squared")
        # By year: an insert may not have more than a hundred partitions, which are months.
        for year in sorted({row[0].year for row in sampled}):
            of_year = [row for row in sampled if row[0].year == year]
            engine.insert("usage_sampled_1d", names, of_year)
            days = sorted({row[0] for row in of_year})
            engine.insert(
                "usage_1d", ("day", "requests"), [(day, SAMPLED * STANDS_FOR) for day in days]
            )
        with client_at(reader_at(clickhouse, database)) as reader:
            yield reader


def test_intervals_hold_the_truth_as_often_as_they_say(client: HttpClient) -> None:
    """Of a thousand samples, between 93 and 97 in a hundred, for requests and for tokens."""
    rows = ask_study(
        client, "20_categories", FIRST, FIRST + timedelta(days=7 * SAMPLES), cell_min=0
    )
    tokens = PARTS * MEDIANS
    truths = {"request": PARTS, "token": tokens / tokens.sum()}
    for at, category in enumerate(CATEGORIES):
        mine = [row for row in rows if row["category"] == category]
        assert len(mine) == SAMPLES
        for measure, truth in truths.items():
            held = [
                row[f"{measure}_share_low"] <= truth[at] <= row[f"{measure}_share_high"]
                for row in mine
            ]
            assert COVERED[0] <= np.mean(held) <= COVERED[1], (measure, category)


def test_a_sample_stands_for_all(client: HttpClient) -> None:
    """Tokens are scaled by the requests that a sampled one stands for."""
    rows = ask_study(client, "20_categories", FIRST, FIRST + timedelta(days=7), cell_min=0)
    assert {row["requests_per_sampled"] for row in rows} == {STANDS_FOR}
    assert all(row["tokens_estimated"] == row["tokens"] * STANDS_FOR for row in rows)
