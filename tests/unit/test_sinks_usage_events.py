"""The writer: one block, one token, sorted failures."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from schemas.errors import FatalError, RejectedBatchError, SinkUnavailableError
from sinks.usage_events import UsageEventWriter, arrow_schema
from tests.usage_rows import as_table, random_rows

START = datetime(2026, 11, 1, tzinfo=UTC)


class Recorder:
    """Stands for the client: keeps what it is asked to insert, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, pa.Table, dict[str, Any]]] = []
        self.error = error

    def raw_insert(
        self,
        table: str,
        column_names: Sequence[str],
        insert_block: pa.Buffer,
        settings: dict[str, Any],
        fmt: str,
    ) -> None:
        if self.error:
            raise self.error
        rows = pa.ipc.open_file(insert_block).read_all()
        assert (list(column_names), fmt) == (rows.schema.names, "Arrow")
        self.calls.append((table, rows, settings))


def rows(seed: int) -> pa.Table:
    return as_table(random_rows(seed, 10, START, timedelta(minutes=5)))


def test_an_insert_carries_its_token_and_is_synchronous() -> None:
    """The token goes with the insert, and async_insert cannot merge it with others."""
    client = Recorder()
    UsageEventWriter(client, "db").write(rows(1), "t:0:0-9:202611")
    ((table, sent, settings),) = client.calls
    assert (table, sent.num_rows) == ("`db`.`usage_events`", 10)
    assert settings["insert_deduplication_token"] == "t:0:0-9:202611"
    assert settings["async_insert"] == 0


def test_chunks_are_joined_into_one_record_batch() -> None:
    """Chunks with dictionaries of their own become one batch of the same rows: one block."""
    client = Recorder()
    parts = [rows(1), rows(2)]
    UsageEventWriter(client, "db").write(pa.concat_tables(parts), "t")
    sent = client.calls[0][1]
    assert len(sent.to_batches()) == 1
    assert sent.to_pylist() == parts[0].to_pylist() + parts[1].to_pylist()


def test_other_types_are_not_sent() -> None:
    """The server would take text for a number as null: a block of another schema is a bug."""
    at = arrow_schema().get_field_index("latency_ms")
    words = rows(1).set_column(at, "latency_ms", pa.array(["a"] * 10))
    with pytest.raises(AssertionError):
        UsageEventWriter(Recorder(), "db").write(words, "t")


def test_no_rows_no_insert() -> None:
    """An empty block is no request."""
    client = Recorder()
    UsageEventWriter(client, "db").write(arrow_schema().empty_table(), "t")
    assert client.calls == []


@pytest.mark.parametrize(
    ("code", "kind"), [(252, SinkUnavailableError), (27, RejectedBatchError), (60, FatalError)]
)
def test_failures_are_sorted(code: int, kind: type[Exception]) -> None:
    """The writer raises what happens next, never the driver's exception or the server's text."""
    error = DatabaseError(f"Code: {code}. DB::Exception: secret", code=code)
    with pytest.raises(kind) as caught:
        UsageEventWriter(Recorder(error), "db").write(rows(1), "t")
    assert "secret" not in str(caught.value)


def test_a_fault_of_ours_is_not_taken_for_the_servers() -> None:
    """Anything but a failure of the server or network passes through and stops the worker."""
    with pytest.raises(ZeroDivisionError):
        UsageEventWriter(Recorder(ZeroDivisionError()), "db").write(rows(1), "t")
