"""``tokentide query`` and ``tokentide shares`` against the engine."""

import csv
import io
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import environment, fresh_name, run_tokentide, tokentide
from tests.integration.sinks_database import migrated
from tests.usage_rows import Row, as_table, random_rows, tokens


@pytest.fixture(scope="module")
def settings(clickhouse: Server) -> Iterator[dict[str, Any]]:
    """Settings of a database."""
    database = fresh_name("query")
    with migrated(clickhouse, database):
        yield {"clickhouse_port": clickhouse.port, "clickhouse_database": database}


@dataclass(frozen=True)
class Live:
    """A database of its own with rows of the last minutes, and some of those before."""

    settings: dict[str, Any]
    recent: list[Row]


@pytest.fixture
def live(clickhouse: Server, fresh_database: str) -> Iterator[Live]:
    """Rows made now: what is shown is the last quarter of an hour."""
    now = datetime.now(UTC)
    recent = random_rows(30, 300, now - timedelta(minutes=5), timedelta(minutes=5))
    before = random_rows(31, 100, now - timedelta(minutes=25), timedelta(minutes=5))
    with migrated(clickhouse, fresh_database) as client:
        writer = UsageEventWriter(client, fresh_database)
        for number, rows in enumerate((recent, before)):
            writer.write(as_table(rows), f"t{number}")
        settings = {"clickhouse_port": clickhouse.port, "clickhouse_database": fresh_database}
        yield Live(settings, recent)


def query(settings: dict[str, Any], *arguments: str) -> str:
    run = run_tokentide("query", *arguments, **settings)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


def test_json_is_one_array_with_plain_numbers(settings: dict[str, Any]) -> None:
    """64-bit integers and decimals are numbers, null is null, text is escaped."""
    sql = (
        "SELECT toUInt64(18446744073709551615) AS big, NULL AS nothing, toDecimal64(1.5, 9) AS share,"
        " 'a\"\\n,é' AS text UNION ALL SELECT 1, NULL, 2, 'b'"
    )
    rows = sorted(json.loads(query(settings, sql, "--format", "json")), key=lambda row: row["text"])
    assert rows == [
        {"big": 2**64 - 1, "nothing": None, "share": 1.5, "text": 'a"\n,é'},
        {"big": 1, "nothing": None, "share": 2, "text": "b"},
    ]


def test_json_of_no_rows(settings: dict[str, Any]) -> None:
    """An empty answer is an empty array."""
    assert json.loads(query(settings, "SELECT 1 AS a WHERE 0", "--format", "json")) == []


def test_csv_has_a_header(settings: dict[str, Any]) -> None:
    """The first line names the columns; a trailing semicolon and comment do no harm."""
    out = query(settings, "SELECT 1 AS a, 'x,y' AS b; -- done", "--format", "csv")
    assert list(csv.DictReader(io.StringIO(out))) == [{"a": "1", "b": "x,y"}]


def test_a_table_shows_null_and_milliseconds(settings: dict[str, Any]) -> None:
    """Null is written out; times are UTC without a suffix."""
    out = query(
        settings, "SELECT NULL AS n, toDateTime64('2026-10-05 01:02:03.004', 3, 'UTC') AS t"
    )
    assert out.split() == ["n", "t", "null", "2026-10-05", "01:02:03.004"]


def test_parameters_are_bound(settings: dict[str, Any]) -> None:
    """A value with quotes is a value, not SQL."""
    out = query(
        settings,
        "SELECT {a:String} AS a, {b:UInt32} + 1 AS b",
        "--param",
        "a=it's; DROP",
        "--param",
        "b=41",
        "--format",
        "json",
    )
    assert json.loads(out) == [{"a": "it's; DROP", "b": 42}]


def test_sql_from_standard_input(live: Live) -> None:
    """A dash reads the SQL from standard input."""
    run = subprocess.run(
        tokentide("query", "-", "--format", "csv"),
        input="SELECT count() AS n\nFROM usage_events -- all\n",
        env=environment(**live.settings),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, '"n"\n400\n')


def test_a_large_answer_is_complete(settings: dict[str, Any]) -> None:
    """Many chunks, every row once, still one JSON document."""
    out = query(settings, "SELECT number AS n FROM numbers(300000)", "--format", "json")
    assert [row["n"] for row in json.loads(out)] == list(range(300_000))


def test_a_long_table_is_cut_and_says_so(settings: dict[str, Any]) -> None:
    """A table ends after 1000 rows with a word on standard error."""
    run = run_tokentide("query", "SELECT number FROM numbers(5000)", **settings)
    assert run.returncode == 0
    assert len(run.stdout.splitlines()) == 1001
    assert run.stderr == "first 1000 rows; use --format csv or json for all\n"


@pytest.mark.parametrize("form", ["table", "json", "csv"])
@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "clickhouse: code 62 SYNTAX_ERROR: "),
        ("SELECT * FROM nowhere", "clickhouse: code 60 UNKNOWN_TABLE: "),
        ("DROP TABLE usage_events", "clickhouse: code "),
        ("SELECT throwIf(number = 2, 'two') FROM numbers(5)", "two"),
    ],
)
def test_an_error_is_one_line(settings: dict[str, Any], form: str, sql: str, message: str) -> None:
    """The server's code and first sentence on standard error, exit 1."""
    run = run_tokentide("query", sql, "--format", form, **settings)
    assert run.returncode == 1
    assert message in run.stderr
    assert run.stderr.startswith("Error: clickhouse: code ")
    assert run.stderr.count("\n") == 1


def test_an_error_after_the_first_rows(settings: dict[str, Any]) -> None:
    """An answer that breaks off is not taken for a whole one."""
    sql = "SELECT throwIf(number = 3000000, 'late') FROM numbers(5000000)"
    run = run_tokentide("query", sql, "--format", "csv", **settings)
    assert run.returncode == 1
    assert run.stderr.startswith("Error: ")
    assert run.stderr.count("\n") == 1


def test_wrong_usage() -> None:
    """A parameter without a value, or no SQL, is wrong usage: exit 2."""
    assert run_tokentide("query", "SELECT 1", "--param", "a").returncode == 2
    assert run_tokentide("query", "  ").returncode == 2


def test_shares_once_as_json(live: Live) -> None:
    """The window's tokens per model equal a recount; shares sum to 1; the newest event is told."""
    run = run_tokentide("shares", "--once", "--format", "json", "--top", "3", **live.settings)
    assert run.returncode == 0, run.stderr
    shown = json.loads(run.stdout)
    assert shown["tokens"] == sum(map(tokens, live.recent))
    assert shown["requests"] == len(live.recent)
    for kind, column in (("models", "model"), ("vendors", "vendor")):
        totals: dict[str, int] = {}
        for row in live.recent:
            totals[row[column]] = totals.get(row[column], 0) + tokens(row)
        ranked = sorted((v for v in totals if v != "unknown"), key=lambda v: -totals[v])
        rest = ["other"] if ranked[3:] else []
        assert [row["value"] for row in shown[kind]] == [*ranked[:3], *rest, "unknown"]
        for row in shown[kind]:
            if row["value"] != "other":
                assert row["tokens"] == totals[row["value"]]
        assert abs(sum(row["share"] for row in shown[kind]) - 1) < 1e-9
        assert abs(sum(row["previous_share"] for row in shown[kind]) - 1) < 1e-9
    newest = max(row["occurred_at"] for row in live.recent)
    assert datetime.fromisoformat(shown["newest_event"]) == newest


def test_shares_once_as_a_table(live: Live, clickhouse: Server) -> None:
    """Both tables, the address of the SQL endpoint, and a line to copy."""
    run = run_tokentide("shares", "--once", **live.settings)
    assert run.returncode == 0, run.stderr
    assert "acme/large" in run.stdout
    assert "tiger" in run.stdout
    assert f"http://127.0.0.1:{clickhouse.port}" in run.stdout
    assert 'tokentide query "SELECT * FROM share_last_hour' in run.stdout


def test_shares_with_nobody_there() -> None:
    """Once means once: one line, exit 1."""
    run = run_tokentide("shares", "--once", clickhouse_port=1)
    assert run.returncode == 1
    assert run.stderr == ("Error: clickhouse at 127.0.0.1:1 does not answer: connection refused\n")
