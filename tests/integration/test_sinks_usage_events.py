"""Rows through the writer into the engine: once, in the table and in every rollup."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pyarrow as pa
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.errors import ConfigurationError, FatalError, RejectedBatchError, SinkUnavailableError
from sinks.clickhouse import CAUGHT, sorted_error
from sinks.usage_events import UsageEventWriter, arrow_schema
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import (
    client_at,
    migrated,
    one_of,
    reader_at,
    rows_of,
    verify,
)
from tests.rollups import COUNTED, OF_ALL, is_counted
from tests.usage_rows import NULLABLE, Row, as_table, random_rows, tokens

START = datetime(2026, 10, 5, 13, 58, 30, tzinfo=UTC)
SPAN = timedelta(hours=30)
TABLES = ("usage_events", *OF_ALL)
COUNTS = {"usage_events": "count()"} | dict.fromkeys(OF_ALL, "sum(requests)")
KEYS = {"usage_context_1h": 5, "usage_located_1d": 4, "usage_sampled_1d": 9, "usage_users_1d": 3}
"""Rollup -> its dimensions; nine of the model otherwise."""


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


def writer_of(client: HttpClient) -> UsageEventWriter:
    database = client.database
    assert database is not None
    return UsageEventWriter(client, database)


def counts(client: HttpClient) -> dict[str, int]:
    return {table: one_of(client, f"SELECT {what} FROM {table}") for table, what in COUNTS.items()}


def measures(rows: list[Row]) -> dict[str, int]:
    """The rollups' measures by their definitions."""
    return {
        "requests": len(rows),
        "tokens_prompt": sum(row["tokens_prompt"] or 0 for row in rows),
        "tokens_completion": sum(row["tokens_completion"] or 0 for row in rows),
        "tokens_reasoning": sum(row["tokens_reasoning"] or 0 for row in rows),
        "tokens_cached": sum(row["tokens_cached"] or 0 for row in rows),
        "cost_nanousd": sum(row["cost_nanousd"] or 0 for row in rows),
        "tool_call_requests": sum(row["tool_use"] == "called" for row in rows),
        "errors": sum(row["status"] != "ok" for row in rows),
        "tokens_unknown": sum(
            row["tokens_prompt"] is None or row["tokens_completion"] is None for row in rows
        ),
        "cost_unknown": sum(row["cost_nanousd"] is None for row in rows),
    }


def value_of(row: Row, key: str) -> str:
    """Return a dimension of a row; two of them are tags."""
    if key not in ("language", "subcategory"):
        return str(row[key])
    value = str(orjson.loads(row["tags"] or "{}").get(key, ""))
    return "unknown" if value in ("", "no such tag") else value


def test_the_insert_has_the_columns_of_the_table(client: HttpClient) -> None:
    """arrow_schema() is the table: names, order, types and what may be null."""
    described = rows_of(client, "DESCRIBE usage_events")
    schema = arrow_schema()
    assert [column["name"] for column in described] == schema.names
    for column, field in zip(described, schema, strict=True):
        kind = column["type"]
        assert kind.startswith("Nullable(") == field.nullable, column["name"]
        assert (kind == "LowCardinality(String)") == pa.types.is_dictionary(field.type), kind
        plain = kind.removeprefix("Nullable(").removesuffix(")").lower()
        expected = {
            "string": "string",
            "timestamp[ms, tz=UTC]": "datetime64(3, 'utc'",
            "bool": "bool",
            "float": "float32",
        }.get(str(field.type), str(field.type))
        if not pa.types.is_dictionary(field.type):
            assert plain.removesuffix(")") == expected, column["name"]


def test_every_value_arrives_as_it_was_sent(client: HttpClient) -> None:
    """What is read back is what was written: nulls stay null, zeros stay zero."""
    sent = random_rows(1, 300, START, SPAN)
    sent[0] |= dict.fromkeys(NULLABLE) | {"event_id": "all null"}
    zeros: Row = {name: 0 for name in NULLABLE if name.startswith(("tokens", "cost", "tool"))}
    sent[1] |= zeros | {"event_id": "zeros", "user_hash": 2**64 - 1, "tags": '{"a":"é\\n"}'}
    writer_of(client).write(as_table(sent), "t")
    got = rows_of(client, "SELECT * FROM usage_events ORDER BY kafka_offset")
    assert got == sent


def test_raw_and_rollups_agree_with_a_recount(client: HttpClient) -> None:
    """Totals of all rollups, and every measure per hour and model, equal a plain recount."""
    sent = random_rows(2, 3000, START, SPAN)
    for first in range(0, 3000, 1000):
        writer_of(client).write(as_table(sent[first : first + 1000]), f"t{first}")
    expected = measures(sent)
    sums = ", ".join(f"sum({name}) AS {name}" for name in expected)
    for table in OF_ALL:
        assert rows_of(client, f"SELECT {sums} FROM {table}") == [expected], table
    sampled = [row for row in sent if row["category"] != "unknown"]
    squares = sum(min(tokens(row), 4_000_000) ** 2 for row in sampled)
    assert rows_of(
        client, f"SELECT {sums}, sum(tokens_squared) AS tokens_squared FROM usage_sampled_1d"
    ) == [measures(sampled) | {"tokens_squared": squares}]
    groups: dict[tuple[datetime, str], list[Row]] = {}
    for row in sent:
        hour = row["occurred_at"].replace(minute=0, second=0, microsecond=0)
        groups.setdefault((hour, row["model"]), []).append(row)
    for table, time in (("usage_1m", "toStartOfHour(minute)"), ("usage_1h", "hour")):
        got = rows_of(client, f"SELECT {time} AS at, model, {sums} FROM {table} GROUP BY at, model")
        assert {(row.pop("at"), row.pop("model")): row for row in got} == {
            key: measures(rows) for key, rows in groups.items()
        }


def test_every_dimension_of_every_rollup_equals_a_recount(client: HttpClient) -> None:
    """Tokens by each key column of each rollup."""
    sent = random_rows(3, 2000, START, SPAN)
    writer_of(client).write(as_table(sent), "t")
    for table in COUNTED.keys() - {"usage_lengths_1d"}:
        counted = [row for row in sent if is_counted(table, row)]
        keys = one_of(
            client,
            "SELECT groupArray(name) FROM system.columns "
            "WHERE database = currentDatabase() AND table = {t:String} AND type LIKE 'Low%'",
            t=table,
        )
        assert len(keys) == KEYS.get(table, 9)
        for key in keys:
            expected: Counter[str] = Counter()
            for row in counted:
                expected[value_of(row, key)] += tokens(row)
            got = rows_of(
                client,
                f"SELECT {key} AS value, sum(tokens_prompt + tokens_completion) AS n "
                f"FROM {table} GROUP BY value",
            )
            assert {row["value"]: row["n"] for row in got} == expected, (table, key)


def test_lengths_equal_a_recount(client: HttpClient) -> None:
    """Each request under its lengths, cut to eight leading binary digits; none whose tokens are unknown."""
    sent = random_rows(4, 2000, START, SPAN)
    edges = (0, 1, 255, 256, 257, 511, 512, 515, 2**24 - 1, 2**24, 2**31 - 1, 2**32 - 1)
    for row, prompt, completion in zip(sent, edges, reversed(edges), strict=False):
        row |= {"tokens_prompt": prompt, "tokens_completion": completion}
    writer_of(client).write(as_table(sent), "t")

    def cut(length: int) -> int:
        digits = f"{length:b}"
        return int(digits[:8] + "0" * len(digits[8:]), 2)

    expected: Counter[tuple[date, str, int]] = Counter()
    for row in sent:
        day, prompt, completion = (
            row["occurred_at"].date(),
            row["tokens_prompt"],
            row["tokens_completion"],
        )
        if prompt is not None and completion is not None:
            expected[day, "prompt", cut(prompt)] += 1
            expected[day, "completion", cut(completion)] += 1
            expected[day, "both", cut(prompt + completion)] += 1
    got = client.query(
        "SELECT day, measured, tokens, sum(requests) FROM usage_lengths_1d GROUP BY ALL"
    ).result_rows
    assert {(day, measured, length): count for day, measured, length, count in got} == expected


def test_a_repeated_token_adds_nothing_anywhere(client: HttpClient) -> None:
    """The same rows under the same token count once, in the table and in every rollup."""
    sent = as_table(random_rows(4, 500, START, SPAN))
    for token in ("t:0:0-499:202610", "t:0:500-999:202610", "t:0:0-499:202610"):
        writer_of(client).write(sent, token)
    # Equal rows under another token are other events.
    assert counts(client) == dict.fromkeys(TABLES, 1000)


def test_without_a_window_a_repeat_doubles(client: HttpClient) -> None:
    """The windows are what makes the guarantee: switched off, everything doubles."""
    for table in TABLES:
        client.command(
            f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 0"
        )
    sent = as_table(random_rows(5, 500, START, SPAN))
    for _ in range(2):
        writer_of(client).write(sent, "t")
    assert counts(client) == dict.fromkeys(TABLES, 1000)


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_a_window_stops_the_worker(client: HttpClient, table: str) -> None:
    """verify() refuses a table that would count repeats twice, and accepts the shipped ones."""
    assert client.database is not None
    verify(client, client.database)
    client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10")
    with pytest.raises(ConfigurationError, match=f"{table} would count repeated inserts twice"):
        verify(client, client.database)


def test_a_block_becomes_one_part(client: HttpClient) -> None:
    """50,000 rows of one month are one part of the table: they land together or not at all."""
    client.command("SYSTEM STOP MERGES usage_events")
    rows = as_table(random_rows(6, 1000, START, SPAN))
    writer_of(client).write(pa.concat_tables([rows] * 50), "t")
    parts = "SELECT count() FROM system.parts WHERE database = currentDatabase() AND active"
    assert one_of(client, f"{parts} AND table = 'usage_events'") == 1


def test_months_are_separate_partitions(client: HttpClient) -> None:
    """Rows either side of a month's end lie in partitions of their own, in all four tables."""
    edge = datetime(2026, 11, 1, tzinfo=UTC)
    before = random_rows(7, 50, edge - timedelta(minutes=5), timedelta(minutes=5))
    after = random_rows(8, 70, edge, timedelta(minutes=5))
    writer_of(client).write(as_table(before), "t:202610")
    writer_of(client).write(as_table(after), "t:202611")
    for table, what in COUNTS.items():
        got = rows_of(
            client, f"SELECT _partition_id AS month, {what} AS n FROM {table} GROUP BY month"
        )
        assert {row["month"]: row["n"] for row in got} == {"202610": 50, "202611": 70}


def failure(client: HttpClient, sql: str, **settings: Any) -> Exception:
    with pytest.raises(CAUGHT) as caught:
        client.command(sql, settings=settings)
    return sorted_error(caught.value)


def test_errors_of_the_real_server_are_sorted(client: HttpClient) -> None:
    """One failure of each kind, produced by the engine itself."""
    slow = failure(client, "SELECT sum(sipHash64(number)) FROM numbers(1e11)", max_execution_time=1)
    assert isinstance(slow, SinkUnavailableError), slow
    memory = failure(client, "SELECT groupArray(number) FROM numbers(1e8)", max_memory_usage=10**6)
    assert isinstance(memory, SinkUnavailableError), memory
    text = failure(client, "SELECT CAST('x', 'UInt8')")
    assert isinstance(text, RejectedBatchError), text
    table = failure(client, "SELECT * FROM nowhere")
    assert isinstance(table, FatalError)
    assert "code 60 UNKNOWN_TABLE" in str(table)
    assert isinstance(failure(client, "SELEC 1"), FatalError)


@pytest.mark.parametrize("column", ["event_id", "model", "kafka_offset", "occurred_at"])
def test_a_null_where_none_is_allowed_is_rejected(client: HttpClient, column: str) -> None:
    """It is the row's own fault, and is not replaced by an empty text."""
    rows = random_rows(9, 3, START, SPAN)
    rows[1][column] = None
    with pytest.raises(RejectedBatchError):
        writer_of(client).write(as_table(rows), "null")
    assert counts(client) == dict.fromkeys(TABLES, 0)


def test_a_missing_table_stops(client: HttpClient) -> None:
    """Nothing to retry and no row to blame: someone has to run the migrations."""
    client.command("DROP TABLE usage_events")
    with pytest.raises(FatalError, match="code 60"):
        writer_of(client).write(as_table(random_rows(10, 3, START, SPAN)), "t")


def test_the_reader_cannot_write(client: HttpClient, clickhouse: Server) -> None:
    """An insert by the reader is refused and is not taken for a fault of the rows."""
    assert client.database is not None
    with (
        client_at(reader_at(clickhouse, client.database)) as reader,
        pytest.raises((SinkUnavailableError, FatalError)),
    ):
        UsageEventWriter(reader, client.database).write(
            as_table(random_rows(11, 3, START, SPAN)), "t"
        )
    assert counts(client) == dict.fromkeys(TABLES, 0)
