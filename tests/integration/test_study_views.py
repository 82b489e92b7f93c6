"""The views of the study against an independent recount of the rows, with Polars."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from sinks.clickhouse import CAUGHT
from sinks.migrate import STUDY_SHARES, views
from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name, run_tokentide
from tests.integration.sinks_database import ask_study, client_at, migrated, reader_at, rows_of
from tests.usage_rows import as_table, random_rows, tokens

# Five weeks from a Wednesday on: the first and the last week are partial.
START = datetime(2026, 9, 2, 5, 30, tzinfo=UTC)
ROWS = random_rows(30, 6000, START, timedelta(days=30))
for _row in ROWS:
    if _row["model"] == "acme/large":
        _row["cost_nanousd"] = None
    else:
        _row["cost_nanousd"] = _row["cost_nanousd"] or 5
FROM, TO = date(2026, 9, 4), date(2026, 9, 30)
BILLIONTH = Decimal("0.000000001")
CELL_MIN = 150
STUDY_ANALYSES = 32
STUDY = [script.name for script in views() if script.name.startswith("study_")]

FRAME = pl.DataFrame(
    {
        **{name: [row[name] for row in ROWS] for name in ROWS[0]},
        "tokens": [tokens(row) for row in ROWS],
    }
).with_columns(
    pl.col("occurred_at").dt.convert_time_zone("UTC").dt.date().alias("day"),
    (pl.col("tokens_prompt").is_null() | pl.col("tokens_completion").is_null()).alias("unmeasured"),
    pl.col("cost_nanousd").is_null().alias("cost_is_unknown"),
    pl.col("tokens_prompt", "tokens_completion", "tokens_reasoning", "cost_nanousd").fill_null(0),
)
INSIDE = FRAME.filter(pl.col("day") >= FROM, pl.col("day") < TO).with_columns(
    # Monday is 1.
    (pl.col("day") - pl.duration(days=pl.col("day").dt.weekday().cast(pl.Int64) - 1)).alias("week")
)
OPEN = INSIDE.filter(pl.col("open_weights") == "open")
REASONING = INSIDE.filter(pl.col("reasoning").is_in(["always", "optional"]))
PROGRAMMING, ROLEPLAY = (
    INSIDE.filter(pl.col("category") == name) for name in ("programming", "roleplay")
)
TAGGED = INSIDE.filter(pl.col("category") != "unknown")


@pytest.fixture(scope="module")
def client(clickhouse: Server) -> Iterator[HttpClient]:
    """What an analyst is: a reader of a database that holds ROWS."""
    database = fresh_name("study")
    with migrated(clickhouse, database) as writer:
        inserts = UsageEventWriter(writer, database)
        for month in (9, 10):
            rows = [row for row in ROWS if row["occurred_at"].month == month]
            inserts.write(as_table(rows), f"month {month}")
        with client_at(reader_at(clickhouse, database)) as reader:
            yield reader


def ask(client: HttpClient, view: str, **more: int) -> list[dict[str, Any]]:
    return ask_study(client, view, FROM, TO, **more)


def total(column: pl.Series) -> int:
    """Return the sum of whole numbers."""
    return int(column.sum())


def sums(rows: pl.DataFrame, *keys: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return tokens, requests and spend by keys."""
    found = rows.group_by(keys).agg(
        pl.col("tokens").sum(), pl.len().alias("requests"), pl.col("cost_nanousd").sum()
    )
    return {
        tuple(row[key] for key in keys): {
            "tokens": row["tokens"],
            "requests": row["requests"],
            "spend_usd": Decimal(row["cost_nanousd"]) / 10**9,
        }
        for row in found.iter_rows(named=True)
    }


def check_shares(
    got: list[dict[str, Any]],
    rows: pl.DataFrame,
    value: str,
    column: str,
    bucket: str = "week",
    summed: int = 1,
) -> None:
    """Sums equal the recount; shares are those of the bucket, within a billionth, exactly 1 in sum.

    Args:
        summed: So many shares, each rounded, are in one.
    """
    assert {(row[bucket], row[value]) for row in got} == set(sums(rows, bucket, column))
    totals = sums(rows, bucket)
    for row in got:
        own, whole = sums(rows, bucket, column)[row[bucket], row[value]], totals[(row[bucket],)]
        assert {name: row[name] for name in own} == own
        for share, part in (
            ("token_share", "tokens"),
            ("request_share", "requests"),
            ("spend_share", "spend_usd"),
        ):
            exact = Decimal(own[part]) / Decimal(whole[part])
            assert abs(row[share] - exact) <= summed * BILLIONTH, (share, row)
    for start in totals:
        assert sum(row["token_share"] for row in got if row[bucket] == start[0]) == 1


def folded(rows: pl.DataFrame, column: str, top: int) -> pl.DataFrame:
    """Return rows with all but the largest values of a column as other."""
    known = rows.filter(pl.col(column) != "unknown")
    by_tokens = known.group_by(column).agg(pl.col("tokens").sum())
    largest = by_tokens.sort(["tokens", column], descending=[True, False])[column][:top]
    is_named = pl.col(column).is_in(largest.to_list()) | (pl.col(column) == "unknown")
    return rows.with_columns(pl.when(is_named).then(pl.col(column)).otherwise(pl.lit("other")))


def test_open_and_closed(client: HttpClient) -> None:
    """Weeks begin on Monday, those that the period cuts are partial."""
    got = ask(client, "01_open_and_closed")
    check_shares(got, INSIDE, "origin", "origin")
    partial = {row["week"]: bool(row["is_partial"]) for row in got}
    assert partial == {
        date(2026, 8, 31): True,
        date(2026, 9, 7): False,
        date(2026, 9, 14): False,
        date(2026, 9, 21): False,
        date(2026, 9, 28): True,
    }


def test_the_running_week_is_partial(clickhouse: Server, fresh_database: str) -> None:
    """Even if the period reaches beyond it."""
    now = datetime.now(UTC)
    rows = random_rows(31, 50, now - timedelta(minutes=5), timedelta(minutes=4))
    rows = [{**row, "occurred_at": now - timedelta(seconds=1)} for row in rows]
    with migrated(clickhouse, fresh_database) as client:
        UsageEventWriter(client, fresh_database).write(as_table(rows), "now")
        got = rows_of(
            client,
            "SELECT DISTINCT is_partial FROM study_01_open_and_closed("
            "from_day = today() - 30, to_day = today() + 30)",
        )
    assert [bool(row["is_partial"]) for row in got] == [True]


def test_the_mean_of_weekly_shares(client: HttpClient) -> None:
    """Every whole week counts the same, whatever its volume."""
    got = ask(client, "02_weekly_volume")
    whole = [date(2026, 9, day) for day in (7, 14, 21)]
    for origin in set(INSIDE["origin"]):
        shares = []
        for week in whole:
            of_week = INSIDE.filter(pl.col("week") == week)
            part = of_week.filter(pl.col("origin") == origin)["tokens"].sum()
            shares.append(part / total(of_week["tokens"]))
        (mean,) = {float(r["mean_weekly_token_share"]) for r in got if r["origin"] == origin}
        assert mean == pytest.approx(sum(shares) / 3, abs=2e-9)


def test_authors_of_open_models(client: HttpClient) -> None:
    """Over the whole period, the largest first."""
    got = ask(client, "03_open_authors", top_n=1)
    rows = folded(OPEN, "vendor", 1).with_columns(pl.lit(FROM).alias("week"))
    check_shares([{**row, "week": FROM} for row in got], rows, "vendor", "vendor")
    assert [row["vendor"] for row in got] == ["tiger", "other"]
    assert [row["place"] for row in got] == [1, 2]


@pytest.mark.parametrize(
    ("view", "rows", "column", "top"),
    [
        ("04_top_open_models", OPEN, "model", 2),
        ("05_open_size_classes", OPEN, "size_class", None),
        ("12_top_reasoning_models", REASONING, "model", 1),
    ],
)
def test_shares_within_a_part(
    client: HttpClient, view: str, rows: pl.DataFrame, column: str, top: int | None
) -> None:
    """The denominator is that part, not all."""
    got = ask(client, view) if top is None else ask(client, view, top_n=top)
    check_shares(got, rows if top is None else folded(rows, column, top), column, column)


def test_models_by_size(client: HttpClient) -> None:
    """Distinct models, however many rows they have."""
    got = {(row["week"], row["size_class"]): row for row in ask(client, "06_open_models_by_size")}
    found = OPEN.group_by("week", "size_class").agg(
        pl.col("model").n_unique(), pl.col("tokens").sum(), pl.len().alias("requests")
    )
    assert len(got) == found.height
    for row in found.iter_rows(named=True):
        mine = got[row["week"], row["size_class"]]
        assert (mine["models"], mine["tokens"], mine["requests"]) == (
            row["model"],
            row["tokens"],
            row["requests"],
        )
        assert mine["tokens_per_model"] == row["tokens"] // row["model"]


def test_reasoning(client: HttpClient) -> None:
    """Models that can, whether they did; and what was reasoned."""
    kinds = {"always": "reasoning", "optional": "reasoning", "none": "not reasoning"}
    rows = INSIDE.with_columns(
        pl.col("reasoning").replace_strict(kinds, default="unknown").alias("kind")
    )
    got = ask(client, "11_reasoning")
    check_shares(got, rows, "kind", "kind")
    for row in got:
        mine = rows.filter(pl.col("week") == row["week"], pl.col("kind") == row["kind"])
        part = total(mine["tokens_reasoning"]) / total(mine["tokens_completion"])
        assert row["reasoning_part_of_completion"] == pytest.approx(part)


def test_tool_calls(client: HttpClient) -> None:
    """By finish reason; the calls that were counted in another way are shown beside it."""
    ends = {"tool_calls": "tool call", "unknown": "unknown"}
    rows = INSIDE.with_columns(
        pl.col("finish_reason").replace_strict(ends, default="other end").alias("ended_by")
    )
    got = ask(client, "13_tool_calls")
    check_shares(got, rows, "ended_by", "ended_by", summed=INSIDE["finish_reason"].n_unique())
    assert (
        sum(row["tool_call_requests"] for row in got)
        == rows.filter(pl.col("tool_use") == "called").height
    )


def test_models_that_call_tools(client: HttpClient) -> None:
    """The largest of each week, with their part of their own requests."""
    got = ask(client, "14_top_tool_models", top_n=3)
    called = INSIDE.filter(pl.col("tool_use") == "called")
    for week in sorted(set(INSIDE["week"])):
        mine = [row for row in got if row["week"] == week]
        of_week = called.filter(pl.col("week") == week)
        largest = of_week.group_by("model").len().sort(["len", "model"], descending=[True, False])
        assert [(r["model"], r["tool_call_requests"]) for r in mine] == largest.rows()[:3]
        for row in mine:
            own = INSIDE.filter(pl.col("week") == week, pl.col("model") == row["model"]).height
            assert row["part_of_own_requests"] == row["tool_call_requests"] / own
            assert row["share_of_tool_call_requests"] == row["tool_call_requests"] / of_week.height


def test_lengths(client: HttpClient) -> None:
    """Sums over the requests whose tokens are known."""
    for row in ask(client, "15_request_lengths"):
        mine = INSIDE.filter(pl.col("week") == row["week"])
        measured = mine.filter(~pl.col("unmeasured")).height
        assert row["requests_measured"] == measured
        assert row["tokens_unknown"] == mine.height - measured
        prompt, completion = total(mine["tokens_prompt"]), total(mine["tokens_completion"])
        assert row["mean_tokens_prompt"] == pytest.approx(prompt / measured)
        assert row["mean_tokens_completion"] == pytest.approx(completion / measured)
        assert row["mean_tokens"] == pytest.approx((prompt + completion) / measured)
        assert row["prompt_tokens_per_completion_token"] == pytest.approx(prompt / completion)


def test_lengths_by_category_withhold_small_cells(client: HttpClient) -> None:
    """Null, not 0, where the sample is too small to say."""
    got = ask(client, "17_lengths_by_category", cell_min=CELL_MIN)
    withheld = {bool(row["is_withheld"]) for row in got}
    assert withheld == {True, False}
    assert len(got) == TAGGED.group_by("week", "category").len().height
    for row in got:
        mine = TAGGED.filter(pl.col("week") == row["week"], pl.col("category") == row["category"])
        measured = mine.filter(~pl.col("unmeasured")).height
        assert row["requests_measured"] == measured
        assert bool(row["is_withheld"]) == (measured < CELL_MIN)
        if row["is_withheld"]:
            assert row["mean_tokens_prompt"] is row["mean_tokens"] is None
        else:
            assert row["mean_tokens_prompt"] == pytest.approx(
                total(mine["tokens_prompt"]) / measured
            )


def test_categories(client: HttpClient) -> None:
    """Shares of what was sampled, with the interval of the request share."""
    everything = ask(client, "20_categories", cell_min=0)
    for row in everything:
        of_week = TAGGED.filter(pl.col("week") == row["week"])
        mine = of_week.filter(pl.col("category") == row["category"])
        n, p = of_week.height, mine.height / of_week.height
        assert (row["sampled_requests"], row["sampled_requests_total"]) == (mine.height, n)
        assert float(row["token_share"]) == pytest.approx(
            total(mine["tokens"]) / total(of_week["tokens"]), abs=2e-9
        )
        # The interval holds the shares that a score test does not refuse at 5 %.
        for end in (row["request_share_low"], row["request_share_high"]):
            assert abs(p - end) / np.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, abs=1e-5)
    some = ask(client, "20_categories", cell_min=CELL_MIN)
    assert len(some) == len(everything)
    for row in some:
        assert bool(row["is_withheld"]) == (row["sampled_requests"] < CELL_MIN)
        hidden = (row["token_share"], row["request_share"], row["request_share_low"])
        assert (hidden == (None, None, None)) == bool(row["is_withheld"])


def test_price_and_use_of_categories(client: HttpClient) -> None:
    """What was paid for a million tokens."""
    got = ask(client, "29_price_and_use_of_categories", cell_min=10)
    assert {row["category"] for row in got} == {"programming", "roleplay"}
    prices = {}
    for row in got:
        mine = TAGGED.filter(pl.col("category") == row["category"])
        prices[row["category"]] = total(mine["cost_nanousd"]) / total(mine["tokens"]) / 1000
        assert row["usd_per_million_tokens"] == pytest.approx(prices[row["category"]])
        assert row["cost_unknown"] == total(mine["cost_is_unknown"])
    dear = max(prices, key=lambda category: prices[category])
    assert {row["category"]: row["quadrant"].split(",")[0] for row in got} == {
        category: "dear" if category == dear else "cheap" for category in prices
    }


def test_price_and_use_of_models_and_elasticity(client: HttpClient) -> None:
    """A model whose cost is not known is left out; the line is that of least squares."""
    got = ask(client, "30_price_and_use_of_models", cell_min=10)
    models = (
        INSIDE.filter(pl.col("model") != "unknown")
        .group_by("model")
        .agg(
            pl.col("tokens").sum(),
            pl.col("cost_nanousd").sum(),
            pl.col("cost_is_unknown").sum(),
        )
    )
    priced = models.filter(pl.col("cost_is_unknown") == 0)
    assert {row["model"] for row in got} == set(priced["model"])
    assert "acme/large" not in set(priced["model"])
    for row in got:
        mine = priced.filter(pl.col("model") == row["model"])
        price = mine["cost_nanousd"].item() / mine["tokens"].item() / 1000
        assert row["usd_per_million_tokens"] == pytest.approx(price)
    assert {row["segment"] for row in got} <= {
        "premium leader",
        "premium specialist",
        "efficient giant",
        "long tail",
    }
    x = np.log((priced["cost_nanousd"] / priced["tokens"] / 1000).to_numpy())
    y = np.log(priced["tokens"].to_numpy())
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    found = {row["origin"]: row for row in ask(client, "30_price_elasticity", cell_min=10)}
    assert found["all"]["models"] == len(x)
    assert found["all"]["elasticity"] == pytest.approx(slope)
    assert found["all"]["standard_error"] == pytest.approx(np.sqrt(covariance[0, 0]))
    assert found["proprietary"]["models"] == 1
    assert found["proprietary"]["elasticity"] is None


@pytest.mark.parametrize(
    ("view", "rows", "column"),
    [
        ("07_open_categories", OPEN.filter(pl.col("category") != "unknown"), "category"),
        (
            "08_chinese_open_categories",
            TAGGED.filter(pl.col("origin") == "chinese_open"),
            "category",
        ),
        ("09_programming_by_origin", PROGRAMMING, "origin"),
        ("10_roleplay_by_origin", ROLEPLAY, "origin"),
        ("21_programming_by_vendor", PROGRAMMING, "vendor"),
    ],
)
def test_shares_of_sampled_requests(
    client: HttpClient, view: str, rows: pl.DataFrame, column: str
) -> None:
    """Of the sampled part that the view is about; a week of too few is withheld."""
    got = [{**row, "requests": row["sampled_requests"]} for row in ask(client, view, cell_min=0)]
    check_shares(got, rows, column, column)
    for row in got:
        of_week = rows.filter(pl.col("week") == row["week"])
        check_interval(row, of_week, of_week[column] == row[column])
        stands_for = (
            INSIDE.filter(pl.col("week") == row["week"]).height
            / TAGGED.filter(pl.col("week") == row["week"]).height
        )
        assert row["requests_per_sampled"] == pytest.approx(stands_for)
        assert row["tokens_estimated"] == pytest.approx(row["tokens"] * stands_for, abs=1)
    weeks = {key[0]: found["requests"] for key, found in sums(rows, "week").items()}
    least, most = min(weeks.values()), max(weeks.values())
    for row in ask(client, view, cell_min=(least + most) // 2):
        assert row["sampled_requests_total"] == weeks[row["week"]]
        assert bool(row["is_withheld"]) == (weeks[row["week"]] < (least + most) // 2)
        assert (row["token_share"] is None) == bool(row["is_withheld"])


def check_interval(row: dict[str, Any], rows: pl.DataFrame, mine: pl.Series) -> None:
    """The interval of a share of tokens, from what each request differs by."""
    lengths, is_mine = rows["tokens"].to_numpy().astype(float), mine.to_numpy()
    share = lengths[is_mine].sum() / lengths.sum()
    differs = lengths * (is_mine - share)
    error = np.sqrt((differs**2).sum() * len(rows) / (len(rows) - 1)) / lengths.sum()
    if share == 1:
        assert row["token_share_low"] is row["token_share_high"] is None
        return
    odds, reach = np.log(share / (1 - share)), 1.959964 * error / (share * (1 - share))
    for name, end in (("low", odds - reach), ("high", odds + reach)):
        assert row[f"token_share_{name}"] == pytest.approx(1 / (1 + np.exp(-end)))


def test_author_profiles(client: HttpClient) -> None:
    """Of the vendor's own sampled requests."""
    rows = TAGGED.filter(pl.col("vendor") != "unknown")
    cells, of_vendor = sums(rows, "week", "vendor", "category"), sums(rows, "week", "vendor")
    got = ask(client, "23_author_profiles", cell_min=CELL_MIN)
    assert {(r["week"], r["vendor"], r["category"]) for r in got} == set(cells)
    assert {bool(row["is_withheld"]) for row in got} == {True, False}
    for row in got:
        own = cells[row["week"], row["vendor"], row["category"]]
        whole = of_vendor[row["week"], row["vendor"]]
        assert (row["tokens"], row["sampled_requests"]) == (own["tokens"], own["requests"])
        assert row["sampled_requests_of_vendor"] == whole["requests"]
        if whole["requests"] < CELL_MIN:
            assert row["token_share"] is row["request_share"] is None
        else:
            assert row["token_share"] == pytest.approx(own["tokens"] / whole["tokens"])
            assert row["request_share"] == pytest.approx(own["requests"] / whole["requests"])
            of_week = rows.filter(pl.col("week") == row["week"], pl.col("vendor") == row["vendor"])
            check_interval(row, of_week, of_week["category"] == row["category"])


def test_where_callers_are(client: HttpClient) -> None:
    """By continent and week, and by continent or country over the period."""
    rows = INSIDE.with_columns(
        pl.col("caller_country").alias("country"),
        pl.col("caller_country")
        .replace_strict({"DE": "Europe", "US": "North America"}, default="unknown")
        .alias("continent"),
        pl.lit(FROM).alias("period"),
    )
    check_shares(ask(client, "24_spend_by_continent"), rows, "continent", "continent")
    for view, column, more in (
        ("25_continents", "continent", {}),
        ("26_countries", "country", {"top_n": 5}),
    ):
        got = ask(client, view, **more)
        own = sums(rows, column)
        assert [row["place"] for row in got] == list(range(1, len(own) + 1))
        assert got[-1][column] == "unknown"
        whole = sum(each["tokens"] for each in own.values())
        for row in got:
            mine = own[(row[column],)]
            assert (row["tokens"], row["requests"]) == (mine["tokens"], mine["requests"])
            assert float(row["token_share"]) == pytest.approx(mine["tokens"] / whole, abs=2e-9)


def test_retention(clickhouse: Server, fresh_database: str) -> None:
    """By hand: who came in January, who in February, who came back after a gap."""
    months = {1: [0, 2], 2: [0, 1], 3: [0], 4: [1, 2], 5: [2]}
    rows = []
    for user, active in months.items():
        for month in active:
            row = random_rows(user * 10 + month, 1, START, timedelta(days=1))[0]
            row |= {"user_hash": user, "model": "m"}
            row |= {"occurred_at": datetime(2026, 1 + month, 3 + user, tzinfo=UTC)}
            rows += [row, {**row, "model": "other"}, {**row, "user_hash": None}]
    rows = [{**row, "kafka_offset": at} for at, row in enumerate(rows)]
    with migrated(clickhouse, fresh_database) as client:
        inserts = UsageEventWriter(client, fresh_database)
        for number in (1, 2, 3):
            of_month = [row for row in rows if row["occurred_at"].month == number]
            inserts.write(as_table(of_month), f"month {number}")
        got = rows_of(
            client,
            "SELECT * FROM study_28_retention(model = 'm', from_day = '2026-01-01',"
            " to_day = '2026-03-20', exact = true)",
        )
    assert [
        (r["cohort"].month, r["months_later"], r["cohort_users"], r["active_users"]) for r in got
    ] == [(1, 0, 3, 3), (1, 1, 3, 1), (1, 2, 3, 1), (2, 0, 1, 1), (2, 1, 1, 1), (3, 0, 1, 1)]
    assert [bool(row["is_partial"]) for row in got] == [False, False, True, False, True, True]
    assert got[1]["retention"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("shares", STUDY_SHARES, ids=lambda each: each.name)
def test_an_unknown_restriction_is_refused(client: HttpClient, shares: Any) -> None:
    """With an error that says what there is."""
    with pytest.raises(CAUGHT, match="only must be one of"):
        rows_of(
            client,
            f"SELECT * FROM study_{shares.name}(column = '{shares.example}', only = 'paid', "
            "top_n = 5, from_day = '2026-09-01', to_day = '2026-09-30', by_week = true)",
        )


@pytest.mark.parametrize("view", STUDY)
def test_the_example_in_each_comment_runs(client: HttpClient, view: str) -> None:
    """It is what an analyst copies first."""
    ((comment,),) = client.query(
        "SELECT comment FROM system.tables WHERE database = currentDatabase() AND name = {n:String}",
        parameters={"n": view},
    ).result_rows
    found = re.search(r"^Example: (SELECT .*)$", comment, re.M)
    assert found, comment
    client.query(found[1])
    call = re.search(r"FROM (study_\w+(\(.*?\))?)( ORDER| LIMIT| WHERE|$)", found[1])
    assert call
    columns = client.query(f"DESCRIBE {call[1]}").result_columns[0]
    assert not [name for name in columns if not re.search(rf"\b{name}\b", comment)]
    number = view.removeprefix("study_")[:2]
    if number.isdigit():
        assert ("Study: analys" in comment) != ("Not in the study" in comment)
        assert ("Not in the study" in comment) == (int(number) > STUDY_ANALYSES)


def test_the_views_command(client: HttpClient, clickhouse: Server) -> None:
    """Lists all, explains one with the answer to its example, and writes a page of all."""
    settings: dict[str, Any] = {
        "clickhouse_port": clickhouse.port,
        "clickhouse_database": client.database,
    }

    def told(*arguments: str) -> str:
        done = run_tokentide("views", *arguments, **settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = dict(line.split(maxsplit=1) for line in told().splitlines())
    assert set(STUDY) < set(listed)
    assert listed["study_01_open_and_closed"] == "Open against closed models, by week."
    explained = told("study_15_request_lengths")
    assert "requests_measured: those whose" in explained
    assert explained.splitlines()[-1] == "No rows now."
    assert "seconds_ago" in told("data_freshness").splitlines()[-2]
    page = told("--format", "markdown")
    for name in listed:
        assert f"\n## {name}\n" in page
    assert "| kafka_partition | seconds_ago |" in page
    unknown = run_tokentide("views", "study_99", **settings)
    assert unknown.returncode == 1
    assert "no view 'study_99'" in unknown.stderr


def test_an_empty_period(client: HttpClient) -> None:
    """No rows, and no error."""
    for view in ("01_open_and_closed", "02_weekly_volume", "15_request_lengths"):
        got = rows_of(
            client,
            f"SELECT * FROM study_{view}(from_day = '2020-01-01', to_day = '2020-02-01')",
        )
        assert got == []
