"""Explanations out of stored events, against sums made by hand."""

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.share_alert import Explanation
from sinks.explaining import REST, Explainer, Question
from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import client_at, migrated, reader_at
from tests.usage_rows import Row, as_table, random_rows, tokens

SINCE = datetime(2026, 11, 24, 14, 5, tzinfo=UTC)
AT = SINCE + timedelta(minutes=20)
SINCE_MS = int(SINCE.timestamp() * 1000)
AT_MS = int(AT.timestamp() * 1000)
COLUMNS = {"model": "model", "app": "app_id", "region": "region", "provider": "provider"}


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


def changed_rows() -> list[Row]:
    """Return two hours of events in which vendor acme loses most of its requests in region us."""
    rows = random_rows(7, 6_000, SINCE - timedelta(minutes=90), timedelta(minutes=120))
    return [
        row
        for row in rows
        if not (
            row["occurred_at"] >= SINCE
            and row["vendor"] == "acme"
            and row["region"] == "us"
            and row["kafka_offset"] % 10
        )
    ]


def write(client: HttpClient, rows: list[Row]) -> None:
    assert client.database is not None
    UsageEventWriter(client, client.database).write(as_table(rows), "rows")


def explain(client: HttpClient, **changes: Any) -> Explanation:
    assert client.database is not None
    question = Question("vendor", "acme", SINCE_MS, AT_MS, is_complete=True)
    return Explainer(client, client.database).explain(dataclasses.replace(question, **changes))


def periods(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    before = [r for r in rows if SINCE - timedelta(hours=1) <= r["occurred_at"] < SINCE]
    return before, [r for r in rows if SINCE <= r["occurred_at"] < AT]


def share(rows: list[Row], **series: str) -> float:
    own = [r for r in rows if all(r[name] == value for name, value in series.items())]
    return sum(map(tokens, own)) / sum(map(tokens, rows))


def test_shares_and_contributions_are_those_of_the_rows(client: HttpClient) -> None:
    """Both shares equal a recount, every contribution too, and each breakdown adds up."""
    rows = changed_rows()
    write(client, rows)
    found = explain(client)
    before, after = periods(rows)
    assert found.share_before == pytest.approx(share(before, vendor="acme"))
    assert found.share_after == pytest.approx(share(after, vendor="acme"))
    assert found.own_after.requests == len([r for r in after if r["vendor"] == "acme"]) / 20
    assert found.own_before.errors == pytest.approx(
        len([r for r in before if r["vendor"] == "acme" and r["status"] != "ok"]) / 60
    )
    assert found.cause == "own_volume"
    assert [each.dimension for each in found.breakdowns] == list(COLUMNS)
    change = found.share_after - found.share_before
    for breakdown in found.breakdowns:
        column = COLUMNS[breakdown.dimension]
        assert sum(each.change for each in breakdown.contributions) == pytest.approx(change)
        for each in breakdown.contributions:
            if each.value != REST:
                series = {"vendor": "acme", column: each.value}
                assert each.share_before == pytest.approx(share(before, **series))
                assert each.share_after == pytest.approx(share(after, **series))
    by_name = {each.dimension: each.contributions[0].value for each in found.breakdowns}
    assert by_name["region"] == "us"


def test_one_account_is_told(client: HttpClient) -> None:
    """An account that brings a vendor all its new tokens has its part of the change."""
    rows = changed_rows()
    whale = [
        {
            **row,
            "event_id": f"whale-{row['event_id']}",
            "kafka_offset": 100_000 + row["kafka_offset"],
            "vendor": "loup",
            "user_hash": 255,
            "tokens_prompt": 200_000,
        }
        for row in rows
        if row["occurred_at"] >= SINCE and row["kafka_offset"] % 20 == 0
    ]
    rows = [{**row, "vendor": "loup" if row["vendor"] == "loup" else row["vendor"]} for row in rows]
    write(client, [*rows, *whale])
    found = explain(client, value="loup")
    assert found.account is not None
    assert found.account.user_hash == "00000000000000ff"
    before, after = periods([*rows, *whale])
    change = share(after, vendor="loup") - share(before, vendor="loup")
    own = [r for r in after if r["user_hash"] == 255]
    expected = sum(map(tokens, own)) / sum(map(tokens, after)) / change
    assert found.account.part == pytest.approx(expected)


@pytest.mark.parametrize("is_of_requests", [False, True])
def test_all_traffic_is_compared_with_its_rate_before(
    client: HttpClient, is_of_requests: bool
) -> None:
    """Without a series the shares are rates relative to the rate before, and still add up."""
    rows = random_rows(3, 4_000, SINCE - timedelta(minutes=60), timedelta(minutes=60))
    rows += random_rows(4, 400, SINCE, timedelta(minutes=20), first_offset=50_000)
    write(client, rows)
    found = explain(client, dimension="", value="", is_of_requests=is_of_requests)
    before, after = periods(rows)

    def count(rows: list[Row]) -> int:
        return len(rows) if is_of_requests else sum(map(tokens, rows))

    assert found.share_before == pytest.approx(1.0)
    assert found.share_after == pytest.approx(count(after) * 3 / count(before))
    for breakdown in found.breakdowns:
        assert sum(each.change for each in breakdown.contributions) == pytest.approx(
            found.share_after - 1.0
        )


def test_pairs_and_other_are_series_too(client: HttpClient) -> None:
    """vendor|region is both; other is what has no row of its own; a name may hold anything."""
    rows = changed_rows()
    write(client, rows)
    before, _ = periods(rows)
    pair = explain(client, dimension="vendor_region", value="tiger|eu")
    assert pair.share_before == pytest.approx(share(before, vendor="tiger", region="eu"))
    assert "region" not in [each.dimension for each in pair.breakdowns]
    other = explain(client, value="other", named=("acme", "tiger", "other", "unknown"))
    assert other.share_before == pytest.approx(share(before, vendor="loup"))
    unknown = explain(client, dimension="vendor_region", value="unknown")
    pairs = [r for r in before if "unknown" in (r["vendor"], r["region"])]
    assert unknown.share_before == pytest.approx(sum(map(tokens, pairs)) / sum(map(tokens, before)))
    assert explain(client, value="a'); DROP TABLE usage_events; --").share_before == 0.0


def test_a_rate_is_over_the_time_of_which_there_are_events(client: HttpClient) -> None:
    """Where events begin a quarter of an hour before the change, so does the period before it."""
    start = SINCE - timedelta(minutes=15)
    rows = random_rows(5, 3_500, start, timedelta(minutes=35))
    write(client, rows)
    found = explain(client)
    before, after = periods(rows)
    own = [len([r for r in each if r["vendor"] == "acme"]) for each in (before, after)]
    assert found.before_from == "2026-11-24T13:50:00Z"
    assert found.own_before.requests == pytest.approx(own[0] / 15)
    assert found.own_after.requests == pytest.approx(own[1] / 20)


def test_no_events_at_all_is_an_answer(client: HttpClient) -> None:
    """A new series has nothing before, and an empty market no share."""
    found = explain(client)
    assert (found.share_before, found.share_after, found.account) == (0.0, 0.0, None)


def test_the_query_shows_the_series_to_a_reader(client: HttpClient, clickhouse: Server) -> None:
    """Whoever may only read runs it and sees the shares of the rows."""
    rows = changed_rows()
    write(client, rows)
    assert client.database is not None
    for changes in ({}, {"dimension": "vendor_region", "value": "tiger|eu"}, {"value": "it's"}):
        query = explain(client, **changes).query
        with client_at(reader_at(clickhouse, client.database)) as reader:
            answer = list(reader.query(query).named_results())
        assert [row["five_minutes"].minute % 5 for row in answer] == [0] * len(answer)
        assert len(answer) == 16
        first = [
            r
            for r in rows
            if timedelta(0)
            <= r["occurred_at"] - (SINCE - timedelta(hours=1))
            < timedelta(minutes=5)
        ]
        series = {
            "vendor": {"vendor": "acme"},
            "vendor_region": {"vendor": "tiger", "region": "eu"},
        }[changes.get("dimension", "vendor")]
        expected = share(first, **series) if changes.get("value") != "it's" else 0.0
        assert answer[0]["token_share"] == pytest.approx(expected)
