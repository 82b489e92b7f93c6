"""Analyses of hosts, errors, caches, sessions and active parameters against a recount of the rows."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name
from tests.integration.sinks_database import ask_study, client_at, migrated, reader_at
from tests.usage_rows import as_table, random_rows, tokens

START = datetime(2026, 9, 1, tzinfo=UTC)
FROM, TO = date(2026, 9, 3), date(2026, 9, 29)
ACTIVE = {"tiger/72b": 72.0, "loup/24b": 3.5}


def made_rows() -> list[dict[str, Any]]:
    rng = Random(7)
    rows = random_rows(7, 5000, START, timedelta(days=29))
    for row in rows:
        row["session_hash"] = None if rng.random() < 0.1 else int(1200 * rng.random() ** 2)
        row["active_params_b"] = ACTIVE.get(row["model"])
    return rows


ROWS = made_rows()
NAMES = ("vendor", "provider", "model", "open_weights", "status", "session_hash", "kafka_offset")
FRAME = (
    pl.DataFrame(
        {
            **{name: [row[name] for row in ROWS] for name in NAMES},
            "at": [row["occurred_at"] for row in ROWS],
            "prompt": [row["tokens_prompt"] for row in ROWS],
            "cached": [row["tokens_cached"] or 0 for row in ROWS],
            "nanousd": [row["cost_nanousd"] or 0 for row in ROWS],
            "tokens": [tokens(row) for row in ROWS],
            "day": [row["occurred_at"].date() for row in ROWS],
        }
    )
    .filter(pl.col("day") >= FROM, pl.col("day") < TO)
    .with_columns(
        week=pl.col("day") - pl.duration(days=pl.col("day").dt.weekday().cast(pl.Int64) - 1)
    )
)


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    database = fresh_name("hosts")
    with migrated(clickhouse, database) as writer:
        UsageEventWriter(writer, database).write(as_table(ROWS), "rows")
        with client_at(reader_at(clickhouse, database)) as reader:
            yield reader


def ask(client: HttpClient, view: str, **more: Any) -> list[dict[str, Any]]:
    return ask_study(client, view, FROM, TO, **more)


def check_parts(row: dict[str, Any], mine: pl.DataFrame, whole: pl.DataFrame) -> None:
    """Tokens, requests and spend of a row, and its parts of what they are parts of."""
    assert (row["tokens"], row["requests"]) == (int(mine["tokens"].sum()), mine.height)
    assert int(row["spend_usd"] * 10**9) == int(mine["nanousd"].sum())
    for name, column in (("token_share", "tokens"), ("spend_share", "nanousd")):
        assert row[name] == pytest.approx(int(mine[column].sum()) / int(whole[column].sum()))
    assert row["request_share"] == pytest.approx(mine.height / whole.height)
    assert bool(row["is_partial"]) == (row["week"] < FROM or row["week"] + timedelta(days=7) > TO)


def test_hosts(client: HttpClient) -> None:
    """Every provider of every known vendor, by week."""
    known = FRAME.filter(pl.col("vendor") != "unknown")
    got = ask(client, "41_hosts")
    keys = ("week", "vendor", "provider")
    assert {tuple(row[k] for k in keys) for row in got} == set(
        known.select(keys).unique().iter_rows()
    )
    for row in got:
        of_vendor = known.filter(pl.col("week") == row["week"], pl.col("vendor") == row["vendor"])
        check_parts(row, of_vendor.filter(pl.col("provider") == row["provider"]), of_vendor)
        assert row["tokens_of_vendor"] == int(of_vendor["tokens"].sum())


@pytest.mark.parametrize("column", ["vendor", "provider"])
def test_errors_and_caches(client: HttpClient, column: str) -> None:
    """What failed, and what came from a cache, of each value's own."""
    got = ask(client, "42_errors_and_caches", column=f"'{column}'", top_n=100)
    assert {(row["week"], row["value"]) for row in got} == set(
        FRAME.select("week", column).unique().iter_rows()
    )
    for row in got:
        mine = FRAME.filter(pl.col("week") == row["week"], pl.col(column) == row["value"])
        failed = mine.filter(pl.col("status") != "ok").height
        assert (row["requests"], row["errors"]) == (mine.height, failed)
        assert row["error_share"] == pytest.approx(failed / mine.height)
        assert row["tokens_cached"] == int(mine["cached"].sum())
        assert row["cached_share"] == pytest.approx(
            int(mine["cached"].sum()) / int(mine["prompt"].sum())
        )
        assert 0 <= row["tokens_unknown_share"] < 0.5
        assert 0 <= row["cost_unknown_share"] < 0.5


def test_sessions(client: HttpClient) -> None:
    """By the week of the first request; growth between the first and last known prompt."""
    got = {row["week"]: row for row in ask(client, "43_sessions")}
    sessions: dict[date, list[pl.DataFrame]] = {}
    for _, rows in FRAME.filter(pl.col("session_hash").is_not_null()).group_by("session_hash"):
        ordered = rows.sort("at", "kafka_offset")
        sessions.setdefault(ordered["week"][0], []).append(ordered)
    assert got.keys() == sessions.keys()
    for week, row in got.items():
        turns = np.sort([each.height for each in sessions[week]])
        several = [each for each in sessions[week] if each.height > 1]
        assert (row["sessions"], row["requests"]) == (len(turns), turns.sum())
        assert row["mean_turns"] == pytest.approx(turns.mean())
        for name, part in (("turns_p50", 0.5), ("turns_p90", 0.9)):
            assert row[name] == turns[int(part * len(turns))]
        assert row["single_turn_share"] == pytest.approx((turns == 1).mean())
        assert row["several"] == len(several)
        if not several:
            assert row["seconds_p50"] is row["mean_prompt_growth"] is None
            continue
        seconds = np.sort(
            [int(e["at"][-1].timestamp()) - int(e["at"][0].timestamp()) for e in several]
        )
        assert abs(row["seconds_p50"] - seconds[int(0.5 * len(seconds))]) <= 1
        prompts = [each["prompt"].drop_nulls() for each in several]
        growth = [each[-1] - each[0] for each in prompts if len(each)]
        assert row["mean_prompt_growth"] == pytest.approx(np.mean(growth))


def test_active_parameters(client: HttpClient) -> None:
    """Classes of open models by what takes part in a token."""
    classes = {"tiger/72b": "large", "loup/24b": "small"}
    rows = FRAME.filter(pl.col("open_weights") == "open").with_columns(
        pl.col("model").replace_strict(classes, default="unknown").alias("active_class")
    )
    got = ask(client, "44_active_parameters")
    assert {(row["week"], row["active_class"]) for row in got} == set(
        rows.select("week", "active_class").unique().iter_rows()
    )
    assert {row["active_class"] for row in got} >= {"large", "small"}
    for row in got:
        of_week = rows.filter(pl.col("week") == row["week"])
        mine = of_week.filter(pl.col("active_class") == row["active_class"])
        check_parts(row, mine, of_week)
        assert row["models"] == mine["model"].n_unique()
