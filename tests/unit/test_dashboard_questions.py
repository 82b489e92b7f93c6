"""Questions of the dashboard: only what is foreseen gets into the SQL."""

from datetime import UTC, datetime

import pytest

from deploy.dashboard.annotations import happened
from deploy.dashboard.questions import QUESTIONS, BadQuestionError
from schemas.model import Model, Price

HOUR = {"from_time": "1790000000", "to_time": "1790003600"}
TREND = {"by": "vendor", "grain_seconds": "60", **HOUR}
DAYS = {"from_day": "2026-11-01", "to_day": "2026-11-29"}


def test_values_are_quoted_and_words_are_from_a_list() -> None:
    """A value can hold anything and stays a value; what is not a value must be a known word."""
    nasty = "x' OR 1 = 1 -- \\"
    sql = QUESTIONS["drill"].text({"next": "app", "model": nasty, **HOUR})
    assert r"model = 'x\' OR 1 = 1 -- \\'" in sql
    assert "SELECT app_id AS value" in sql
    with pytest.raises(BadQuestionError, match="next: 'app_id, 1' is not one of"):
        QUESTIONS["drill"].text({"next": "app_id, 1", **HOUR})


def test_times_become_what_clickhouse_reads() -> None:
    """Seconds since 1970 are UTC, whatever this machine's zone is."""
    at = datetime.fromtimestamp(1790000000, UTC)
    sql = QUESTIONS["trend"].text(TREND)
    assert f"from_time = '{at:%Y-%m-%d %H:%M:%S}'" in sql
    assert "top_n = 9)" in sql


@pytest.mark.parametrize(
    ("question", "given", "message"),
    [
        ("trend", {**TREND, "by": "sauce"}, "by: 'sauce' is not one of model, vendor"),
        ("trend", {**TREND, "more": "1"}, "more: no such parameter"),
        ("trend", {**TREND, "from_time": "today"}, "from_time: 'today' is not a whole number"),
        ("trend", {**TREND, "from_time": "-1"}, "from_time: '-1' is not a whole number"),
        ("trend", {**TREND, "from_time": "9" * 12}, "from_time: .* is not a whole number from 0"),
        ("trend", {**TREND, "to_time": "1790000000"}, "from_time is not before to_time"),
        ("trend", {**TREND, "grain_seconds": "59"}, "grain_seconds: '59' is not a whole number"),
        ("trend", {"by": "vendor"}, "from_time: missing"),
        ("live", {"dimension": "vendor"}, "seconds: missing"),
        ("live", {"dimension": "vendor", "seconds": "61"}, "seconds: '61' is not one of 60, 300"),
        ("drill", {**HOUR, "next": "app", "to_time": "1800000000"}, "more than 31 days"),
        ("drill", {**HOUR, "next": "app", "model": "x" * 600}, "model: longer than 512"),
        ("drill", {**HOUR, "next": "app", "model": "a\nb"}, "model: .* control characters"),
        ("prices", {**DAYS, "to_day": "2026-02-30"}, "to_day: "),
        ("prices", {**DAYS, "to_day": "2026-11-01"}, "from_day is not before to_day"),
    ],
)
def test_what_is_wrong_is_said(question: str, given: dict[str, str], message: str) -> None:
    """The parameter's name and what is wrong with it, in one line."""
    with pytest.raises(BadQuestionError, match=message):
        QUESTIONS[question].text(given)


def test_releases_and_prices_of_a_period() -> None:
    """Of models in use only, within the half-open period, the most used ones, by day."""

    def price(day: datetime, usd: int) -> Price:
        return Price(int(day.timestamp() * 1000), usd * 10**6, 2 * usd * 10**6)

    first, second, third = (datetime(2026, 11, day, tzinfo=UTC) for day in (2, 9, 20))
    models = [
        Model(
            "a/one",
            display_name="One",
            vendor="a",
            release_date="2026-11-01",
            prices=(price(first, 3), price(second, 3), price(third, 1)),
        ),
        Model("a/unused", release_date="2026-11-05"),
        Model("b/two", vendor="b", release_date="2026-11-29"),
    ]
    found = happened(models, {"a/one": 5, "b/two": 9}, "2026-11-01", "2026-11-29")
    assert [(each.day, each.kind, each.text) for each in found] == [
        ("2026-11-01", "release", "One released"),
        ("2026-11-20", "price", "One: 3/6 to 1/2 USD per million tokens"),
    ]
    many = [Model(f"c/{n}", release_date=f"2026-11-{n:02}") for n in range(1, 29)]
    used = {model.model_id: 100 - n for n, model in enumerate(many)}
    shown = happened(many, used, "2026-11-01", "2026-11-29")
    assert [each.day for each in shown] == [f"2026-11-{n:02}" for n in range(1, 13)]
