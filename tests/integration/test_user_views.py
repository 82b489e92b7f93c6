"""Analyses of users, of all of them and of one in sixteen, against a recount of the same rows."""

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
from tests.integration.sinks_database import (
    ask_study,
    client_at,
    migrated,
    reader_at,
    rows_of,
)
from tests.rollups import chosen
from tests.usage_rows import as_table, random_rows, tokens

START = datetime(2026, 9, 1, tzinfo=UTC)
FROM, TO = date(2026, 9, 3), date(2026, 9, 29)
USERS = 3000
WEEK = timedelta(days=7)


def made_rows() -> list[dict[str, Any]]:
    """Requests of users of whom few make many, and of some who are not known."""
    rng = Random(5)
    names = [rng.getrandbits(64) for _ in range(USERS)]
    rows = random_rows(5, 12_000, START, timedelta(days=29))
    for row in rows:
        row["user_hash"] = None if rng.random() < 0.05 else names[int(USERS * rng.random() ** 2)]
    return rows


ROWS = made_rows()
FRAME = (
    pl.DataFrame(
        {
            "day": [row["occurred_at"].date() for row in ROWS],
            "user": pl.Series([row["user_hash"] for row in ROWS], dtype=pl.UInt64),
            "model": [row["model"] for row in ROWS],
            "vendor": [row["vendor"] for row in ROWS],
            "tokens": [tokens(row) for row in ROWS],
        }
    )
    .filter(pl.col("day") >= FROM, pl.col("day") < TO, pl.col("user").is_not_null())
    .with_columns(
        week=pl.col("day") - pl.duration(days=pl.col("day").dt.weekday().cast(pl.Int64) - 1)
    )
)
CHOSEN = FRAME.filter(pl.col("user").map_elements(chosen, return_dtype=pl.Boolean))
BOTH = pytest.mark.parametrize(("exact", "frame"), [(1, FRAME), (0, CHOSEN)], ids=["all", "16th"])


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    database = fresh_name("users")
    with migrated(clickhouse, database) as writer:
        UsageEventWriter(writer, database).write(as_table(ROWS), "rows")
        with client_at(reader_at(clickhouse, database)) as reader:
            yield reader


def ask(client: HttpClient, view: str, **more: Any) -> list[dict[str, Any]]:
    return ask_study(client, view, FROM, TO, **more)


@BOTH
@pytest.mark.parametrize("column", ["vendor", "model"])
def test_users_of_each(client: HttpClient, exact: int, frame: pl.DataFrame, column: str) -> None:
    """Counted once a week and value; a sixteenth of them stands for all, within its interval."""
    got = ask(client, "38_users", column=f"'{column}'", top_n=2, exact=exact)
    by_week = frame.group_by("week", column).agg(pl.col("user").n_unique().alias("users"))
    of_week = dict(frame.group_by("week").agg(pl.col("user").n_unique()).iter_rows())
    largest = (
        by_week.filter(pl.col(column) != "unknown")
        .group_by(column)
        .agg(pl.col("users").sum())
        .sort(["users", column], descending=[True, False])
        .head(2)[column]
    )
    wanted = by_week.filter(pl.col(column).is_in([*largest, "unknown"]))
    assert {(row["week"], row["value"]): row["users_counted"] for row in got} == {
        (week, value): users for week, value, users in wanted.iter_rows()
    }
    for row in got:
        times = 1 if exact else 16
        assert row["users"] == times * row["users_counted"]
        assert row["user_share"] == pytest.approx(row["users_counted"] / of_week[row["week"]])
        assert row["users_total"] == times * of_week[row["week"]]
        assert bool(row["is_partial"]) == (row["week"] < FROM or row["week"] + WEEK > TO)
        for end in (row["users_low"], row["users_high"]):
            if exact:
                assert end == row["users"]
            else:
                # Ends are whole users.
                off = abs(row["users"] - end) / np.sqrt(16 * end)
                assert off == pytest.approx(1.959964, abs=1 / np.sqrt(16 * end))


def test_the_truth_is_within_the_interval_of_the_sixteenth(client: HttpClient) -> None:
    """In nearly every cell: users of a value and week, counted and estimated."""
    truth, found = (
        {
            (row["week"], row["value"]): row
            for row in ask(client, "38_users", column="'model'", top_n=100, exact=exact)
        }
        for exact in (1, 0)
    )
    held = [
        found[key]["users_low"] <= row["users"] <= found[key]["users_high"]
        for key, row in truth.items()
    ]
    assert len(held) > 10
    assert np.mean(held) > 0.85


@BOTH
def test_new_kept_and_back(client: HttpClient, exact: int, frame: pl.DataFrame) -> None:
    """Each user of a week is one of the three."""
    got = ask(client, "39_new_and_returning_users", exact=exact)
    weeks = sorted(set(frame["week"]))
    active = {week: set(frame.filter(pl.col("week") == week)["user"]) for week in weeks}
    before: set[int] = set()
    assert [row["week"] for row in got] == weeks
    for row in got:
        week, times = row["week"], 1 if exact else 16
        new = active[week] - before
        kept = active[week] & active.get(week - WEEK, set())
        sizes = (len(active[week]), len(new), len(kept), len(active[week]) - len(new) - len(kept))
        assert (row["users"], row["users_new"], row["users_kept"], row["users_back"]) == tuple(
            times * size for size in sizes
        )
        of_week = frame.filter(pl.col("week") == week)
        by_new = int(of_week.filter(pl.col("user").is_in(list(new)))["tokens"].sum())
        assert row["new_token_share"] == pytest.approx(by_new / int(of_week["tokens"].sum()))
        before |= active[week]
    assert any(row["users_back"] for row in got)


def test_accounts(client: HttpClient) -> None:
    """Each share without its largest account, and how unequal accounts are."""
    got = ask(client, "40_accounts", column="'vendor'")
    cells = FRAME.group_by("week", "vendor", "user").agg(pl.col("tokens").sum())
    totals = dict(FRAME.group_by("week").agg(pl.col("tokens").sum()).iter_rows())
    assert {(row["week"], row["value"]) for row in got} == set(
        cells.select("week", "vendor").unique().iter_rows()
    )
    for row in got:
        sizes = np.sort(
            cells.filter(pl.col("week") == row["week"], pl.col("vendor") == row["value"])["tokens"]
            .to_numpy()
            .astype(float)
        )
        whole, largest, all_of_week = sizes.sum(), sizes.max(), totals[row["week"]]
        assert (row["users"], row["tokens"]) == (len(sizes), whole)
        assert row["token_share"] == pytest.approx(whole / all_of_week)
        without = (whole - largest) / (all_of_week - largest)
        assert row["token_share_without_largest"] == pytest.approx(without)
        assert row["part_of_largest"] == pytest.approx(largest / whole)
        assert row["hhi"] == pytest.approx(((sizes / whole) ** 2).sum())
        differences = np.abs(sizes[:, None] - sizes[None, :]).sum()
        assert row["gini"] == pytest.approx(differences / (2 * len(sizes) * whole))


@BOTH
def test_retention_counts_the_same_users(
    client: HttpClient, exact: int, frame: pl.DataFrame
) -> None:
    """Of one model, from either source."""
    model = "acme/large"
    (row,) = (
        row
        for row in rows_of(
            client,
            f"SELECT * FROM study_28_retention(model = '{model}', from_day = '{FROM}',"
            f" to_day = '{TO}', exact = {exact})",
        )
    )
    mine = frame.filter(pl.col("model") == model)
    assert row["cohort_users"] == mine["user"].n_unique() > 0
