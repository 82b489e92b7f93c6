"""What a worker asks of stored events, answered by the real engine."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.httpclient import HttpClient

from sinks.stored_events import StoredEvents
from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import migrated, rows_of
from tests.usage_rows import as_table, random_rows

START = datetime(2026, 10, 31, 23, 0, tzinfo=UTC)
SPAN = timedelta(minutes=30)
PARTITION = 3
AWKWARD = 'it\'s \\ a "quoted" \n id \u2713'


@pytest.fixture
def client(clickhouse: Server, fresh_database: str) -> Iterator[HttpClient]:
    with migrated(clickhouse, fresh_database) as client:
        yield client


def second(at: datetime) -> int:
    return int(at.timestamp())


def test_rows_come_back_as_they_were_inserted(client: HttpClient) -> None:
    """Every column of every row: what is inserted again must be what landed."""
    rows = as_table(random_rows(1, 500, START, SPAN, first_offset=100))
    UsageEventWriter(client, client.database or "").write(rows, "one")
    stored = StoredEvents(client, client.database or "")
    times_ms = (second(START) * 1000, second(START + SPAN) * 1000)
    for times in (times_ms, None):
        found = stored.rows(PARTITION, 100, 600, times).sort_by("kafka_offset")
        assert found.schema.types == rows.schema.types
        assert found.to_pylist() == rows.sort_by("kafka_offset").to_pylist()
    assert stored.rows(PARTITION, 150, 160, times_ms).num_rows == 10
    assert stored.rows(PARTITION, 600, 700, times_ms).num_rows == 0
    assert stored.rows(4, 100, 600, None).schema.types == rows.schema.types


def test_ids_are_found_by_partition_offset_time_and_name(client: HttpClient) -> None:
    """Each condition counts, and an id of any characters is only an id."""
    rows = random_rows(2, 2000, START, SPAN)
    rows[7]["event_id"] = AWKWARD
    UsageEventWriter(client, client.database or "").write(as_table(rows), "one")
    stored = StoredEvents(client, client.database or "")
    ranges = [
        (second(START), second(START) + 60),
        (second(rows[7]["occurred_at"]), second(rows[7]["occurred_at"]) + 1),
    ]
    expected = {
        row["event_id"]: second(row["occurred_at"])
        for row in rows
        if any(begin <= second(row["occurred_at"]) < end for begin, end in ranges)
    }

    def found(before_offset: int = 10_000, **more: object) -> dict[str, int]:
        table = stored.ids(PARTITION, before_offset=before_offset, ranges=ranges, **more)  # type: ignore[arg-type]
        assert set(table["source"].to_pylist()) <= {"synthetic"}
        return dict(zip(table["event_id"].to_pylist(), table["second"].to_pylist(), strict=True))

    assert found() == expected
    assert found(before_offset=8).keys() == expected.keys() & {r["event_id"] for r in rows[:8]}
    many = [AWKWARD, *(row["event_id"] for row in rows), *(f"{n:0100}" for n in range(3000))]
    assert found(event_ids=many) == expected
    assert found(event_ids=[AWKWARD]) == {AWKWARD: expected[AWKWARD]}
    assert found(event_ids=[]) == {}
    newest = found(newest_max=5)
    assert sorted(newest.values()) == sorted(expected.values())[-5:]


def test_the_newest_second_of_a_partition(client: HttpClient) -> None:
    """Over several inserts and months; none for a partition without events."""
    stored = StoredEvents(client, client.database or "")
    assert stored.newest_second(PARTITION) is None
    november = random_rows(3, 50, datetime(2026, 11, 1, tzinfo=UTC), SPAN, first_offset=50)
    for token, rows in (("1", november), ("2", random_rows(4, 50, START, SPAN))):
        UsageEventWriter(client, client.database or "").write(as_table(rows), token)
    assert stored.newest_second(PARTITION) == max(second(row["occurred_at"]) for row in november)
    assert stored.newest_second(4) is None


def test_inserts_since(client: HttpClient) -> None:
    """Inserts are counted, not rows; a month more is an insert more."""
    now = datetime.now(UTC).replace(microsecond=0)
    writer = UsageEventWriter(client, client.database or "")
    for number in range(4):
        rows = random_rows(number, 20, now - SPAN, SPAN, first_offset=100 * number)
        for row in rows:
            row["ingested_at"] = now + timedelta(seconds=number)
        writer.write(as_table(rows), str(number))
    stored = StoredEvents(client, client.database or "")
    assert [stored.inserts_since(second(now) * 1000 + ms) for ms in (-1, 0, 2000, 3000)] == [
        4,
        3,
        1,
        0,
    ]
    assert rows_of(client, "SELECT count() AS rows FROM usage_events") == [{"rows": 80}]
