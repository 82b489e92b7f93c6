"""Panes counted by the real engine equal those that a worker makes of the same rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from schemas.panes import DIMENSIONS, PANE_MS, PANES
from sinks.pane_counts import PaneCounts
from sinks.share_panes import SharePanes
from sinks.usage_events import UsageEventWriter
from streams import panes
from streams.panes import CountedRows
from streams.windows import STORED_LENGTHS
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import migrated
from tests.usage_rows import as_table, random_rows

START = datetime(2026, 11, 20, 23, 59, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
SPAN = timedelta(minutes=2)
SPAN_MS = 120_000
CAP = 9_000
PARTITION = 3


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


def sorted_rows(table: pa.Table) -> list[dict[str, object]]:
    """Return panes as dictionaries in a fixed order, with the entries of a sketch sorted."""
    rows = table.to_pylist()
    for row in rows:
        row["users"] = sorted(row["users"])
    return sorted(rows, key=lambda row: (row["dimension"], row["pane_ms"], row["value"]))


def test_sql_counts_what_the_worker_counts(
    client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every dimension, measure and sketch entry, and users that are not known."""
    rows = random_rows(1, 3000, START, SPAN)
    for row in rows[::7]:
        row["user_hash"] = None
    for at, row in enumerate(rows[1::7]):
        row["user_hash"] = [0, 1, 2**64 - 1, 2**63][at % 4]
    table = as_table(rows)
    UsageEventWriter(client, client.database or "").write(table, "one")
    counts = PaneCounts(client, client.database or "", CAP, 60.0)
    found = counts.read(list(DIMENSIONS), PANE_MS, START_MS, START_MS + SPAN_MS)
    assert found.schema.equals(PANES)
    # Sketches in a table of all registers, and sorted.
    for dense_max in (1 << 40, 0):
        monkeypatch.setattr(panes, "DENSE_MAX", dense_max)
        made = CountedRows(table, tokens_cap=CAP).panes(list(DIMENSIONS))
        assert sorted_rows(found) == sorted_rows(made)


def test_offsets_and_times_bound_what_is_counted(client: HttpClient) -> None:
    """Rows that were not settled yet, or lie outside, are not in it."""
    rows = random_rows(2, 1000, START, SPAN)
    UsageEventWriter(client, client.database or "").write(as_table(rows), "one")
    counts = PaneCounts(client, client.database or "", CAP, 60.0)
    to_ms = START_MS + SPAN_MS // 2
    found = counts.read(["vendor"], PANE_MS, START_MS, to_ms, below={PARTITION: 600, 0: 900})
    inside = [
        row
        for row in rows
        if row["kafka_offset"] < 600 and row["occurred_at"].timestamp() * 1000 < to_ms
    ]
    made = CountedRows(as_table(inside), tokens_cap=CAP).panes(["vendor"])
    assert sorted_rows(found) == sorted_rows(made)
    assert not counts.read(["vendor"], PANE_MS, START_MS, to_ms, below={}).num_rows
    assert not counts.read(["vendor"], PANE_MS, to_ms, to_ms).num_rows


def test_panes_that_have_rows_at_offsets_are_found(client: HttpClient) -> None:
    """What a new owner still owes: rows between two offsets, since a time."""
    rows = random_rows(3, 400, START, SPAN)
    UsageEventWriter(client, client.database or "").write(as_table(rows), "one")
    counts = PaneCounts(client, client.database or "", CAP, 60.0)
    found = counts.late_panes_ms(
        START_MS + 20_000, START_MS + SPAN_MS, above={PARTITION: 380}, below={PARTITION: 390}
    )
    times = [int(row["occurred_at"].timestamp() * 1000) for row in rows[380:390]]
    expected = {time // PANE_MS * PANE_MS for time in times if time >= START_MS + 20_000}
    assert set(found) == expected
    every = START_MS, START_MS + SPAN_MS
    assert not counts.late_panes_ms(*every, above={PARTITION: 400}, below={PARTITION: 400})


def test_a_new_owner_is_told_what_times_have_rows(client: HttpClient) -> None:
    """All of them, the last millisecond too, whatever parts and months they are in."""
    database = client.database or ""
    counts = PaneCounts(client, database, CAP, 60.0)
    assert counts.stored_ms() == (0, 0)
    assert not counts.late_panes_ms(0, 0, above={}, below={PARTITION: 1})
    rows = random_rows(4, 50, START, SPAN)
    earlier = random_rows(5, 50, START - timedelta(days=40), SPAN, first_offset=50)
    for token, block in (("one", rows), ("two", earlier)):
        UsageEventWriter(client, database).write(as_table(block), token)
    times = [round(row["occurred_at"].timestamp() * 1000) for row in rows + earlier]
    assert counts.stored_ms() == (min(times), max(times) + 1)


@pytest.mark.parametrize("length_ms", STORED_LENGTHS)
def test_panes_come_back_as_they_were_stored(client: HttpClient, length_ms: int) -> None:
    """The newest writing of each value, and where each pane stood; panes without requests too."""
    stored = SharePanes(client, client.database or "")
    # The tables drop what is old.
    start = datetime.now(UTC) - timedelta(hours=2)
    first_ms = int(start.timestamp() * 1000) // length_ms * length_ms
    second_ms = first_ms + length_ms
    rows = random_rows(4, 300, start, SPAN)

    def pane(count: int) -> pa.Table:
        panes = PaneCounts(client, client.database or "", CAP, 60.0)
        client.command("TRUNCATE TABLE usage_events")
        UsageEventWriter(client, client.database or "").write(as_table(rows[:count]), f"{count}")
        return panes.read(["vendor"], length_ms, first_ms, second_ms)

    few, all_of_it = pane(20), pane(300)
    stored.write(length_ms, [("vendor", first_ms), ("vendor", second_ms)], few, 10, first_ms)
    stored.write(length_ms, [("vendor", first_ms)], all_of_it, 17, first_ms + 1)
    found = stored.read(length_ms, ["vendor", "app"], first_ms, second_ms + length_ms)
    assert found.panes.schema.equals(PANES)
    assert sorted_rows(found.panes) == sorted_rows(all_of_it)
    assert found.positions == {("vendor", first_ms): 17, ("vendor", second_ms): 10}
    assert not stored.read(length_ms, ["app"], first_ms, second_ms).positions
