"""A small market in ClickHouse, up to now, for tests of the dashboard."""

import time
from datetime import UTC, datetime, timedelta
from itertools import groupby

from clickhouse_connect.driver.httpclient import HttpClient

from schemas.panes import PANE_MS
from schemas.share_alert import iso
from sinks.share_alerts import ShareAlerts
from sinks.share_windows import ShareWindows
from sinks.usage_events import UsageEventWriter
from streams.panes import CountedRows, by_dimension
from streams.share_window import as_record
from streams.windows import SIZES, Windows
from tests.alert_examples import alert, explained
from tests.usage_rows import Row, as_table, random_rows

ALERT = "a" * 32
MINUTES = 90
ROWS = 3_000
CAP = 100_000


def rows_until(now: datetime) -> list[Row]:
    """Return requests of the last ninety minutes, of the days before, and of two months ago."""
    fresh = random_rows(31, ROWS, now - timedelta(minutes=MINUTES), timedelta(minutes=MINUTES))
    old = [
        row
        for number, days in enumerate((60, 59, 2, 1))
        for row in random_rows(
            32 + number,
            300,
            now - timedelta(days=days, hours=1),
            timedelta(minutes=50),
            first_offset=ROWS + 300 * number,
        )
    ]
    # The same users come back, and every price is known, or there would be no cohort and no map.
    for number, row in enumerate([*fresh, *old]):
        row["user_hash"] = number % 50
        row["cost_nanousd"] = row["cost_nanousd"] or 1_000_000
    return [*fresh, *old]


def write_market(client: HttpClient) -> None:
    """Store requests, the windows they make, and an alert with its explanation."""
    assert client.database is not None
    now = datetime.now(UTC)
    rows = rows_until(now)
    writer = UsageEventWriter(client, client.database)
    by_month = sorted(rows, key=lambda row: row["occurred_at"])
    for month, found in groupby(by_month, key=lambda row: row["occurred_at"].month):
        writer.write(as_table(list(found)), f"month {month}")
    write_windows(client, rows, now)
    at_ms = int(now.timestamp() * 1000) // 300_000 * 300_000 - 1_200_000
    ShareAlerts(client, client.database).write(
        alert(
            alert_id=ALERT,
            value="tiger",
            since=iso(at_ms - 300_000),
            at=iso(at_ms),
            explanation=explained(query="SELECT 1"),
        ),
        at_ms,
    )


def write_windows(client: HttpClient, rows: list[Row], now: datetime) -> None:
    """Store all windows that the requests make up to now, of two dimensions."""
    assert client.database is not None
    now_ms = int(now.timestamp() * 1000)
    start_ms = now_ms - MINUTES * 60_000
    fresh = [row for row in rows if row["occurred_at"].timestamp() * 1000 >= start_ms]
    counted = CountedRows(as_table(fresh), tokens_cap=CAP)
    found = []
    for dimension in ("vendor", "model"):
        given_ms = {size: start_ms // size.slide_ms * size.slide_ms for size in SIZES}
        windows = Windows(dimension, top=50, given_ms=given_ms, revisions={}, history={})
        windows.add(by_dimension(counted.panes([dimension]))[dimension])
        until_ms = now_ms // PANE_MS * PANE_MS
        found += [
            as_record(window, watermark_ms=until_ms, given_ms=time.time_ns() // 1_000_000)
            for window in windows.close(until_ms, is_complete=True)
        ]
    ShareWindows(client, client.database).write(found)
