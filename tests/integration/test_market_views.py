"""Views beyond the study's figures, and those of tags, against a recount with Polars."""

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import polars as pl
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name
from tests.integration.sinks_database import ask_study, client_at, migrated, reader_at, rows_of
from tests.usage_rows import Row, as_table, random_rows, tokens

START = datetime(2026, 9, 7, tzinfo=UTC)
FROM, TO = date(2026, 9, 7), date(2026, 9, 28)
LATE_MODEL, LATE_DAY = "loup/24b", date(2026, 9, 16)
LANGUAGES = ("en", "de", "th")
SUBCATEGORIES = ("Adult", "Writers Resources")
CELL_MIN = 150


def market() -> list[Row]:
    """Return three weeks in which a model comes late, and producers send tags."""
    rows = random_rows(41, 4_000, START, timedelta(days=21))
    kept = []
    for number, row in enumerate(rows):
        if row["model"] == LATE_MODEL and row["occurred_at"].date() < LATE_DAY:
            continue
        told = {"team": "a"}
        if number % 4:
            told["language"] = LANGUAGES[(number % 7) % 3]
        if row["category"] == "roleplay" and number % 3:
            told["subcategory"] = SUBCATEGORIES[number % 10 == 1]
        row["tags"] = orjson.dumps(told).decode() if number % 5 else ""
        row["cost_nanousd"] = row["cost_nanousd"] or 1_000
        if number % 20 == 0:  # It failed.
            row["tokens_prompt"] = row["tokens_completion"] = row["cost_nanousd"] = None
        kept.append({**row, "told": told if row["tags"] else {}})
    return kept


ROWS = market()
FRAME = pl.DataFrame(
    {
        "day": [row["occurred_at"].date() for row in ROWS],
        "tokens": [tokens(row) for row in ROWS],
        "cost": [row["cost_nanousd"] or 0 for row in ROWS],
        **{
            name: [row[name] for row in ROWS]
            for name in ("model", "vendor", "vendor_country", "category")
        },
        "language": [row["told"].get("language", "") for row in ROWS],
        "subcategory": [row["told"].get("subcategory", "unknown") for row in ROWS],
    }
).with_columns(
    (pl.col("day") - pl.duration(days=pl.col("day").dt.weekday().cast(pl.Int64) - 1)).alias("week")
)
WEEKS = [date(2026, 9, day) for day in (7, 14, 21)]


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    database = fresh_name("market")
    with migrated(clickhouse, database) as writer:
        plain = [{name: value for name, value in row.items() if name != "told"} for row in ROWS]
        UsageEventWriter(writer, database).write(as_table(plain), "all")
        with client_at(reader_at(clickhouse, database)) as reader:
            yield reader


def ask(client: HttpClient, view: str, **more: int) -> list[dict[str, Any]]:
    return ask_study(client, view, FROM, TO, **more)


def total(column: pl.Series) -> int:
    """Return the sum of whole numbers."""
    return int(column.sum())


def parts(rows: pl.DataFrame, column: str) -> dict[Any, float]:
    """Return the share of tokens of each value, the largest first."""
    sums = rows.group_by(column).agg(pl.col("tokens").sum()).sort("tokens", descending=True)
    whole = sums["tokens"].sum()
    return {name: amount / whole for name, amount in sums.iter_rows()}


@pytest.mark.parametrize(
    ("view", "column", "field"),
    [("33_vendors", "vendor", "vendor"), ("34_vendor_countries", "country", "vendor_country")],
)
def test_vendors_and_their_countries(
    client: HttpClient, view: str, column: str, field: str
) -> None:
    """Every value of every week, of all tokens."""
    got = {
        (row["week"], row[column]): float(row["token_share"]) for row in ask(client, view, top_n=20)
    }
    assert len({week for week, _ in got}) == len(WEEKS)
    for week in WEEKS:
        for name, share in parts(FRAME.filter(pl.col("week") == week), field).items():
            assert got[week, name] == pytest.approx(share, abs=2e-9)


def test_concentration(client: HttpClient) -> None:
    """Index and Gini coefficient as their definitions say: over all pairs."""
    got = {(row["week"], row["dimension"]): row for row in ask(client, "35_concentration")}
    assert len(got) == 2 * len(WEEKS)
    for (week, dimension), row in got.items():
        shares = parts(FRAME.filter(pl.col("week") == week), dimension)
        unknown = shares.pop("unknown")
        known = list(shares.values())
        assert row["unknown_share"] == pytest.approx(unknown, abs=1e-8)
        assert row["hhi"] == pytest.approx(1e4 * sum(share**2 for share in known), rel=1e-6)
        assert row["share_of_largest_3"] == pytest.approx(sum(known[:3]), abs=1e-8)
        assert row["share_of_largest_10"] == pytest.approx(sum(known), abs=1e-8)
        pairs = sum(abs(a - b) for a in known for b in known)
        gini = pairs / (2 * len(known) ** 2 * (sum(known) / len(known)))
        assert row["gini"] == pytest.approx(gini, abs=1e-6)


def test_who_comes_and_goes(client: HttpClient) -> None:
    """The late model enters, and takes the place of the smallest."""
    got = ask(client, "36_churn", top_n=3)
    assert [row["week"] for row in got] == WEEKS
    leaders = []
    for week in WEEKS:
        shares = parts(FRAME.filter(pl.col("week") == week, pl.col("model") != "unknown"), "model")
        leaders.append(list(shares)[:3])
    assert [list(row["leaders"]) for row in got] == leaders
    assert list(got[0]["entered"]) == []
    for before, now, row in zip(leaders, leaders[1:], got[1:], strict=False):
        assert set(row["entered"]) == set(now) - set(before)
        assert set(row["dropped"]) == set(before) - set(now)
        assert row["models_entered"] == len(set(now) - set(before))
    wider = ask(client, "36_churn", top_n=5)
    assert [list(row["entered"]) for row in wider] == [[], [LATE_MODEL], []]


def test_launches(client: HttpClient) -> None:
    """Only what was not there on the first day; its shares are of the day."""
    (row,) = ask(client, "37_launches", top_n=10)
    mine = FRAME.filter(pl.col("model") == LATE_MODEL)
    by_day = {
        day: parts(FRAME.filter(pl.col("day") == day), "model").get(LATE_MODEL, 0.0)
        for day in mine["day"].unique()
    }
    assert row["model"] == LATE_MODEL
    assert row["first_day"] == mine["day"].min()
    assert row["highest_share"] == pytest.approx(max(by_day.values()))
    assert by_day[row["highest_day"]] == max(by_day.values())
    assert row["last_share"] == pytest.approx(by_day[row["last_day"]])
    assert row["tokens"] == mine["tokens"].sum()


def test_languages(client: HttpClient) -> None:
    """Of requests that name one; spend and requests, too."""
    got = {row["language"]: row for row in ask(client, "27_languages")}
    named = FRAME.filter(pl.col("language") != "")
    assert {name: row["token_share"] for name, row in got.items()} == pytest.approx(
        parts(named, "language")
    )
    for name, row in got.items():
        mine = named.filter(pl.col("language") == name)
        assert row["requests"] == mine.height
        assert row["request_share"] == pytest.approx(mine.height / named.height)
        assert row["spend_share"] == pytest.approx(total(mine["cost"]) / total(named["cost"]))


def test_tags_within_categories(client: HttpClient) -> None:
    """Of the category's own requests; what has no tag is unknown, what is too small withheld."""
    got = ask(client, "22_tags_within_categories", cell_min=CELL_MIN)
    tagged = FRAME.filter(pl.col("category") != "unknown")
    assert {(row["category"], row["subcategory"]) for row in got} == set(
        tagged.select("category", "subcategory").unique().iter_rows()
    )
    for row in got:
        whole = tagged.filter(pl.col("category") == row["category"])
        mine = whole.filter(pl.col("subcategory") == row["subcategory"])
        assert row["sampled_requests"] == mine.height
        assert bool(row["is_withheld"]) == (mine.height < CELL_MIN)
        if row["is_withheld"]:
            assert row["token_share"] is row["request_share"] is None
        else:
            assert row["token_share"] == pytest.approx(
                total(mine["tokens"]) / total(whole["tokens"])
            )
    assert {bool(row["is_withheld"]) for row in got} == {True, False}


def test_failed_requests_make_no_model_priceless(client: HttpClient) -> None:
    """One in twenty has neither tokens nor cost: every model is still in the price map."""
    got = {row["model"] for row in ask(client, "30_price_and_use_of_models", cell_min=1)}
    assert got == set(FRAME["model"]) - {"unknown"}


def test_quantiles_of_lengths(client: HttpClient) -> None:
    """The length of the request at that rank, cut to its eight leading binary digits."""
    got = ask(client, "16_length_quantiles")
    assert [row["week"] for row in got] == WEEKS
    for row in got:
        mine = [
            (each["tokens_prompt"], each["tokens_completion"])
            for each in ROWS
            if row["week"] <= each["occurred_at"].date() < row["week"] + timedelta(days=7)
            and each["tokens_prompt"] is not None
            and each["tokens_completion"] is not None
        ]
        assert row["requests_measured"] == len(mine)
        for name, values in (
            ("tokens_prompt", [prompt for prompt, _ in mine]),
            ("tokens_completion", [completion for _, completion in mine]),
            ("tokens", [prompt + completion for prompt, completion in mine]),
        ):
            for percent in (50, 90, 99):
                length = sorted(values)[math.ceil(percent / 100 * len(values)) - 1]
                step = 1 << max(length.bit_length() - 8, 0)
                assert row[f"{name}_p{percent}"] == length // step * step, (name, percent)


# Cohorts by month of first use -> part that is active 1, 2, ... months later, of 100 users.
PATTERNS = {
    "glass slipper": {1: (60, 50, 45, 40, 40), 2: (30, 20, 15, 15), 3: (25, 18, 15)},
    "lock-in": {1: (50, 45, 40, 40, 40), 2: (12, 8, 5, 5), 3: (10, 5, 5)},
    "no fit": {1: (15, 10, 8, 5, 5), 2: (14, 10, 8, 5), 3: (15, 10, 8)},
    "boomerang": {1: (20, 12, 30, 20, 15), 2: (20, 15, 10, 10), 3: (20, 15, 10)},
    "unclear": {1: (40, 35, 30, 28, 28), 2: (38, 33, 30, 28), 3: (39, 30, 28)},
}


def test_patterns_of_retention(clickhouse: Server, fresh_database: str) -> None:
    """Each pattern by a market that shows it; a small cohort and the running month decide nothing."""
    rows: list[Row] = []
    for number, (pattern, cohorts) in enumerate(PATTERNS.items()):
        for month, curve in {**cohorts, 4: (100, 100)}.items():
            # Fewer than the smallest cohort that counts.
            users = 100 if month < 4 else 10
            for user in range(users):
                later = [0, *(k for k, percent in enumerate(curve, 1) if user < percent)]
                for k in later:
                    at = datetime(2026, month + k, 3, tzinfo=UTC)
                    row = random_rows(len(rows), 1, at, timedelta(hours=1), first_offset=len(rows))
                    hashed = number * 10_000 + month * 1_000 + user
                    rows.append({**row[0], "model": pattern, "user_hash": hashed})
    with migrated(clickhouse, fresh_database) as client:
        inserts = UsageEventWriter(client, fresh_database)
        for month in range(1, 8):
            of_month = [row for row in rows if row["occurred_at"].month == month]
            inserts.write(as_table(of_month), f"month {month}")
        period = "from_day = '2026-01-01', to_day = '2026-07-02', cell_min = 50, exact = true"
        got = rows_of(client, f"SELECT * FROM study_28_retention_patterns({period})")
    assert {row["model"]: row["pattern"] for row in got} == {name: name for name in PATTERNS}
    (slipper,) = (row for row in got if row["model"] == "glass slipper")
    assert slipper["best_cohort"] == date(2026, 1, 1)
    assert slipper["best_kept"] == pytest.approx((50 + 45 + 40 + 40) / 400)
    assert slipper["cohorts_judged"] == 3
    assert slipper["usual_kept"] == pytest.approx((20 + 15 + 15) / 300)
