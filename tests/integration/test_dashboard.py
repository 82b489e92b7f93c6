"""The dashboard's server on a real ClickHouse: every question, one query for many, clear failures."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from clickhouse_connect.driver.httpclient import HttpClient

from deploy.dashboard.answering import Answer, Answering
from deploy.dashboard.questions import QUESTIONS
from deploy.dashboard.server import application
from schemas.errors import SinkUnavailableError
from sinks.migrate import SHARE_VIEWS
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import free_port, fresh_name
from tests.dashboard_market import ALERT, write_market
from tests.integration.sinks_database import migrated, reader_at, rows_of

Page = TestClient[Any, Any]


@pytest.fixture(scope="module")
def market(clickhouse: Server) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_name("dashboard")) as client:
        write_market(client)
        yield client


@pytest_asyncio.fixture
async def page(clickhouse: Server, market: HttpClient) -> AsyncIterator[Page]:
    app = application(reader_at(clickhouse, str(market.database)))
    async with TestClient(TestServer(app)) as client:
        yield client


def given(name: str) -> dict[str, str]:
    """Return parameters with which the market has an answer."""
    now = int(time.time())
    today = datetime.now(UTC).date()
    days = {"from_day": str(today - timedelta(days=90)), "to_day": str(today + timedelta(days=1))}
    hour = {"from_time": str(now - 3600), "to_time": str(now + 60)}
    window = {"dimension": "vendor", "seconds": "60"}
    return {
        "live": window,
        "live_history": {**window, "reach_seconds": "600"},
        "trend": {"by": "vendor", "grain_seconds": "60", **hour},
        "trend_weeks": {"weekly": "vendor", **days},
        "compare": {
            "by": "model",
            **hour,
            "from_time_after": str(now - 1800),
            "to_time_after": str(now),
        },
        "drill": {"next": "app", "vendor": "tiger", **hour},
        "alert": {"alert_id": ALERT},
        "retention": {"model": "tiger/72b", **days},
        "models": days,
        "prices": days,
        "elasticity": days,
    }.get(name, {})


@pytest.mark.parametrize("name", QUESTIONS)
async def test_each_question_is_answered_by_the_reader(
    page: Page, market: HttpClient, name: str
) -> None:
    """With rows, and its SQL gives the same ones to anybody who asks it again."""
    answer = await page.get(f"/api/ask/{name}", params=given(name))
    assert answer.status == 200, await answer.text()
    found = await answer.json()
    assert found["rows"]
    again = rows_of(market, found["sql"])
    assert list(again[0]) == found["columns"]
    if name != "freshness":
        assert len(again) == len(found["rows"])


@pytest.mark.parametrize("view", SHARE_VIEWS, ids=lambda view: str(view.name))
async def test_each_dimension_has_a_trend(page: Page, view: Any) -> None:
    """By the bucket and by the week: shares of a bucket sum to 1."""
    days = given("trend_weeks")
    for question, more in (
        ("trend", {**given("trend"), "by": view.name, "grain_seconds": str(view.seconds)}),
        ("trend_weeks", {**days, "weekly": view.name}),
    ):
        found = await (await page.get(f"/api/ask/{question}", params=more)).json()
        sums: dict[Any, float] = {}
        for row in found["rows"]:
            sums[row[0]] = sums.get(row[0], 0.0) + row[found["columns"].index("request_share")]
        assert sums
        assert all(total == pytest.approx(1) for total in sums.values())


async def test_the_evidence_of_an_alert_is_a_picture(page: Page) -> None:
    """SVG with its sentence; an alert that is not there is 404."""
    answer = await page.get(f"/api/alerts/{ALERT}/evidence.svg")
    assert answer.content_type == "image/svg+xml"
    assert "Vendor openai fell" in await answer.text()
    missing = await page.get(f"/api/alerts/{'b' * 32}/evidence.svg")
    assert missing.status == 404
    assert "no alert" in (await missing.json())["error"]


async def test_mistakes_are_told_and_nothing_comes_from_elsewhere(page: Page) -> None:
    """400 with the reason as JSON; every answer forbids what does not come from here."""
    for path, message in (
        ("/api/ask/nothing", "nothing: no such question"),
        ("/api/ask/live?dimension=vendor", "seconds: missing"),
        ("/api/annotations?from_day=2026-11-01", "to_day: missing"),
        ("/api/annotations?from_day=x&to_day=y", "does not match"),
    ):
        answer = await page.get(path)
        assert answer.status == 400
        assert message in (await answer.json())["error"]
    for path in ("/", "/api/ask/freshness", "/page/js/main.js", "/api/ask/nothing", "/nowhere"):
        answer = await page.get(path)
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert (await page.get("/page/..%2fserver.py")).status == 404
    assert (await page.get("/api/annotations", params=given("models"))).status == 200


async def test_many_readers_cost_one_query(
    clickhouse: Server, market: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those who ask while it is being answered, and for as long as it is kept; then it is asked anew."""
    answering = Answering(reader_at(clickhouse, str(market.database)))
    asked: list[str] = []
    query = answering._query

    def counted(sql: str) -> Answer:
        asked.append(sql)
        return query(sql)

    monkeypatch.setattr(answering, "_query", counted)
    window = given("live")
    answers = await asyncio.gather(*(answering.ask("live", window) for _ in range(50)))
    assert len(asked) == 1
    assert len({id(answer) for answer in answers}) == 1
    await answering.ask("live", {**window, "seconds": "300"})
    assert len(asked) == 2
    await asyncio.sleep(QUESTIONS["live"].kept_seconds + 0.1)
    assert await answering.ask("live", window) is not answers[0]
    assert len(asked) == 3
    answering.close()


async def test_one_that_goes_away_takes_nothing_from_the_others(
    clickhouse: Server, market: HttpClient
) -> None:
    """A page that is closed while its question is answered."""
    answering = Answering(reader_at(clickhouse, str(market.database)))
    first = asyncio.create_task(answering.ask("live", given("live")))
    second = asyncio.create_task(answering.ask("live", given("live")))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).rows
    answering.close()


async def test_a_clickhouse_that_is_away_is_told_and_asked_again(clickhouse: Server) -> None:
    """503 with the reason; a failure is not kept; tables that are missing are another matter."""
    address = reader_at(clickhouse, "default")
    away = application(replace(address, port=free_port()))
    async with TestClient(TestServer(away)) as client:
        answer = await client.get("/api/ask/freshness")
        assert answer.status == 503
        assert "connection refused" in (await answer.json())["error"]
        assert (await client.get("/livez")).status == 200
    answering = Answering(replace(address, port=free_port()))
    for _ in range(2):
        with pytest.raises(SinkUnavailableError):
            await answering.ask("freshness", {})
    assert not answering._answers
    answering.close()
    nowhere = application(reader_at(clickhouse, fresh_name("nowhere")))
    async with TestClient(TestServer(nowhere)) as client:
        answer = await client.get("/api/ask/freshness")
        assert answer.status == 502
        assert (await answer.json())["kind"] == "refused"
