"""The share views against an independent recount."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from sinks.clickhouse import CAUGHT
from sinks.migrate import SHARE_VIEWS, ShareView
from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name
from tests.integration.sinks_database import migrated, one_of, rows_of
from tests.usage_rows import MODELS, Row, as_table, random_rows, tokens

# Rows from 13:58:30 on, over six hours, so that the first and last minute and hour are partial.
START = datetime(2026, 10, 5, 13, 58, 30, tzinfo=UTC)
ROWS = random_rows(20, 4000, START, timedelta(hours=6))
DAY = (datetime(2026, 10, 5, tzinfo=UTC), datetime(2026, 10, 6, tzinfo=UTC))
EVERYTHING = 1_000_000
BILLIONTH = Decimal("0.000000001")
views = pytest.mark.parametrize("view", SHARE_VIEWS, ids=lambda view: view.name)


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    """A database that holds ROWS in several inserts."""
    database = fresh_name("views")
    with migrated(clickhouse, database) as client:
        writer = UsageEventWriter(client, database)
        for first in range(0, len(ROWS), 700):
            writer.write(as_table(ROWS[first : first + 700]), f"t{first}")
        yield client


def ask(
    client: HttpClient,
    view: ShareView,
    grain_seconds: int,
    top_n: int,
    during: tuple[datetime, datetime] = DAY,
) -> list[dict[str, Any]]:
    return rows_of(
        client,
        f"SELECT * FROM share_by_{view.name}(from_time = {{from:DateTime('UTC')}}, "
        "to_time = {to:DateTime('UTC')}, grain_seconds = {grain:UInt32}, top_n = {top:UInt32})",
        **{"from": during[0], "to": during[1], "grain": grain_seconds, "top": top_n},
    )


def floor(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(int(at.timestamp()) // seconds * seconds, UTC)


def recount(
    view: ShareView, grain_seconds: int, top_n: int, during: tuple[datetime, datetime] = DAY
) -> dict[tuple[datetime, str], dict[str, Any]]:
    """The view's answer by its definition, without the rounded shares."""
    inside = [r for r in ROWS if during[0] <= floor(r["occurred_at"], view.seconds) < during[1]]
    by_value: dict[str, int] = defaultdict(int)
    for row in inside:
        by_value[row[view.column]] += tokens(row)
    ranked = sorted((-n, value) for value, n in by_value.items() if value != "unknown")
    named = {value for _, value in ranked[:top_n]} | {"unknown"}
    groups: dict[tuple[datetime, str], list[Row]] = defaultdict(list)
    for row in inside:
        bucket = floor(row["occurred_at"], grain_seconds) if grain_seconds else during[0]
        value = row[view.column]
        groups[bucket, value if value in named else "other"].append(row)
    return {
        key: {
            "tokens": sum(map(tokens, rows)),
            "requests": len(rows),
            "spend_usd": Decimal(sum(row["cost_nanousd"] or 0 for row in rows)) / 10**9,
            "tokens_unknown": sum(
                row["tokens_prompt"] is None or row["tokens_completion"] is None for row in rows
            ),
            "cost_unknown": sum(row["cost_nanousd"] is None for row in rows),
        }
        for key, rows in groups.items()
    }


def check(got: list[dict[str, Any]], expected: dict[tuple[datetime, str], dict[str, Any]]) -> None:
    """Every number equals the recount; shares are within a billionth and sum to exactly 1."""
    assert {(row["bucket_start"], row["value"]) for row in got} == set(expected)
    assert len(got) == len(expected)
    buckets: dict[datetime, list[dict[str, Any]]] = defaultdict(list)
    for row in got:
        wanted = expected[row["bucket_start"], row["value"]]
        assert {name: row[name] for name in wanted} == wanted
        buckets[row["bucket_start"]].append(row)
    for rows in buckets.values():
        for share, part, total in (
            ("token_share", "tokens", "tokens_total"),
            ("request_share", "requests", "requests_total"),
            ("spend_share", "spend_usd", "spend_total_usd"),
        ):
            whole = sum(row[part] for row in rows)
            assert {row[total] for row in rows} == {whole}
            if whole == 0:
                assert {row[share] for row in rows} == {None}
                continue
            assert sum(row[share] for row in rows) == 1
            for row in rows:
                exact = Decimal(row[part]) / Decimal(whole)
                assert abs(row[share] - exact) <= BILLIONTH, (share, row)


@views
def test_every_value(client: HttpClient, view: ShareView) -> None:
    """With room for all values there is no other that is not a value of that name."""
    grain = view.seconds * 2
    check(ask(client, view, grain, EVERYTHING), recount(view, grain, EVERYTHING))


@views
@pytest.mark.parametrize("cut", [0, 60, 3600])
def test_whichever_rollup_answers(client: HttpClient, view: ShareView, cut: int) -> None:
    """Whole days, hours and minutes, by days, hours and in one piece: the same definition."""
    during = (DAY[0] + timedelta(seconds=cut), DAY[1])
    for grain in (0, 3600, 86_400):
        check(ask(client, view, grain, 3, during), recount(view, grain, 3, during))


@views
def test_top_other_and_unknown(client: HttpClient, view: ShareView) -> None:
    """Two named values, the rest in other, unknown on its own and never in other."""
    got = ask(client, view, view.seconds, 2)
    check(got, recount(view, view.seconds, 2))
    assert len({row["value"] for row in got} - {"other", "unknown"}) <= 2


@views
def test_the_whole_range_as_one_bucket(client: HttpClient, view: ShareView) -> None:
    """Grain 0 is one bucket that starts where the range does."""
    got = ask(client, view, 0, 1)
    check(got, recount(view, 0, 1))
    assert {row["bucket_start"] for row in got} == {DAY[0]}


def test_the_data_exercises_the_views() -> None:
    """Every dimension has an unknown, and more than two named values somewhere."""
    for view in SHARE_VIEWS:
        assert any(row[view.column] == "unknown" for row in ROWS), view.name
    assert sum(len({r[v.column] for r in ROWS} - {"unknown"}) > 2 for v in SHARE_VIEWS) >= 8
    assert len(MODELS) > 5


def test_no_named_values(client: HttpClient) -> None:
    """top_n = 0 leaves other and unknown."""
    view = SHARE_VIEWS[0]
    got = ask(client, view, 3600, 0)
    check(got, recount(view, 3600, 0))
    assert {row["value"] for row in got} == {"other", "unknown"}


@pytest.mark.parametrize("seconds", [0, 1, 59, 60, 61])
def test_a_range_that_is_not_aligned(client: HttpClient, seconds: int) -> None:
    """A minute belongs to the range that its start lies in; a bucket starts on the grid in UTC."""
    view = SHARE_VIEWS[0]
    begin = datetime(2026, 10, 5, 15, 0, tzinfo=UTC) + timedelta(seconds=seconds)
    during = (begin, begin + timedelta(minutes=90))
    check(ask(client, view, 600, 3, during), recount(view, 600, 3, during))


def test_neighbouring_ranges_tile(client: HttpClient) -> None:
    """Cut anywhere, the parts of a range add up to the whole: nothing twice, nothing lost."""
    view = SHARE_VIEWS[0]
    cut = datetime(2026, 10, 5, 15, 7, 13, tzinfo=UTC)
    parts = [ask(client, view, 0, 0, range_) for range_ in ((DAY[0], cut), (cut, DAY[1]))]
    assert sum(row["requests"] for part in parts for row in part) == len(ROWS)


def test_an_empty_range(client: HttpClient) -> None:
    """No requests, no rows."""
    later = (DAY[1], DAY[1] + timedelta(days=1))
    assert ask(client, SHARE_VIEWS[0], 60, 5, later) == []


@views
def test_a_grain_that_cuts_rows_is_refused(client: HttpClient, view: ShareView) -> None:
    """A grain that the rollup cannot answer is an error that says what it must be."""
    for grain in {view.seconds + 1, view.seconds // 2}:
        with pytest.raises(CAUGHT, match=f"grain_seconds must be a multiple of {view.seconds}"):
            ask(client, view, grain, 5)


def test_shares_are_null_where_nothing_is_known(clickhouse: Server, fresh_database: str) -> None:
    """Requests whose tokens and cost are unknown: shares of requests only, and the row says why."""
    rows = random_rows(21, 10, START, timedelta(seconds=20))
    for row in rows:
        row |= {"tokens_prompt": None, "tokens_completion": None, "cost_nanousd": None}
    with migrated(clickhouse, fresh_database) as client:
        UsageEventWriter(client, fresh_database).write(as_table(rows), "t")
        got = ask(client, SHARE_VIEWS[1], 0, 10)
    assert sum(row["request_share"] for row in got) == 1
    for row in got:
        assert row["token_share"] is None
        assert row["spend_share"] is None
        assert row["tokens_unknown"] == row["cost_unknown"] == row["requests"]


def test_totals_of_a_century_do_not_overflow(clickhouse: Server, fresh_database: str) -> None:
    """Sums near the top of UInt64 still give shares that are exact to a billionth."""
    huge = 2**62
    with migrated(clickhouse, fresh_database) as client:
        for vendor, part in (("acme", huge), ("tiger", huge - 1), ("loup", 1)):
            for table, time in (("usage_1m", "minute"), ("usage_1h", "hour")):
                client.command(
                    f"INSERT INTO {table} ({time}, vendor, model, tokens_prompt, requests) "
                    "SELECT toDateTime({at:String}, 'UTC'), {v:String}, {v:String}, {n:UInt64}, 1",
                    parameters={"at": "2026-10-05 12:00:00", "v": vendor, "n": part},
                )
        got = {row["value"]: row["token_share"] for row in ask(client, SHARE_VIEWS[1], 0, 10)}
    assert got == {"acme": Decimal("0.5"), "tiger": Decimal("0.5"), "loup": 0}


def test_the_last_hour(clickhouse: Server, fresh_database: str) -> None:
    """share_last_hour holds every minute-backed dimension, each with shares that sum to 1."""
    now = datetime.now(UTC)
    rows = random_rows(22, 200, now - timedelta(minutes=50), timedelta(minutes=40))
    old = random_rows(23, 50, now - timedelta(minutes=90), timedelta(minutes=20))
    with migrated(clickhouse, fresh_database) as client:
        writer = UsageEventWriter(client, fresh_database)
        for number, part in enumerate((rows, old)):
            writer.write(as_table(part), f"t{number}")
        got = rows_of(
            client,
            "SELECT dimension, sum(requests) AS n, sum(token_share) AS s FROM share_last_hour "
            "GROUP BY dimension",
        )
    assert {(row["dimension"], row["n"], row["s"]) for row in got} == {
        (view.name, 200, 1) for view in SHARE_VIEWS if view.seconds == 60
    }


def test_unresolved_models(client: HttpClient) -> None:
    """Names the catalogue did not resolve, with their volume."""
    expected: dict[str, list[Row]] = defaultdict(list)
    for row in ROWS:
        if row["model"] == "unknown":
            expected[row["model_raw"]].append(row)
    got = {row["model_raw"]: row for row in rows_of(client, "SELECT * FROM unresolved_models")}
    assert set(got) == set(expected)
    for name, rows in expected.items():
        row = got[name]
        assert row["requests"] == len(rows)
        assert row["tokens"] == sum(map(tokens, rows))
        assert row["request_share"] == len(rows) / len(ROWS)
        assert row["first_occurred_at"] == min(r["occurred_at"] for r in rows)
        assert row["last_occurred_at"] == max(r["occurred_at"] for r in rows)


def test_data_freshness(client: HttpClient) -> None:
    """One row per Kafka partition: the newest event, the highest offset, the rows."""
    (row,) = rows_of(client, "SELECT * FROM data_freshness")
    assert row["kafka_partition"] == 3
    assert row["last_kafka_offset"] == len(ROWS) - 1
    assert row["rows"] == len(ROWS)
    assert row["last_occurred_at"] == max(r["occurred_at"] for r in ROWS)
    assert row["last_ingested_at"] == max(r["ingested_at"] for r in ROWS)


def test_a_condition_on_time_reads_by_the_primary_key(client: HttpClient) -> None:
    """occurred_at is not in the sort key itself, yet a range of it uses the key's first column."""
    plan = rows_of(
        client,
        "EXPLAIN indexes = 1 SELECT sum(tokens_prompt) FROM usage_events "
        "WHERE occurred_at >= '2026-10-05 14:00:00' AND occurred_at < '2026-10-05 15:00:00'",
    )
    text = "\n".join(row["explain"] for row in plan)
    assert "Search Algorithm: binary search" in text
    assert one_of(client, "SELECT count() FROM usage_events") == len(ROWS)
