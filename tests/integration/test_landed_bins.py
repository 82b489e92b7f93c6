"""Bins counted anew equal a plain recount of the rows that had landed."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from deploy.backtest import landed_history
from schemas.panes import DIMENSIONS
from sinks.landed_bins import LandedBins
from sinks.usage_events import UsageEventWriter
from streams.detection import BIN_MS
from tests.conftest import ClickHouseAddress as Server
from tests.integration.sinks_database import migrated
from tests.usage_rows import Row, as_table, random_rows, tokens

START = datetime(2026, 11, 23, 23, 30, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
HOURS, TOP, CAP, LATENESS_MS = 1, 2, 5_000, 30_000


def value_of(row: Row, dimension: str) -> str:
    parts = [str(row[name]) for name in DIMENSIONS[dimension]]
    return "unknown" if "unknown" in parts else "|".join(parts)


def recount(rows: list[Row], dimension: str, end_ms: int) -> dict[str, tuple[int, ...]]:
    """Return requests, tokens, capped, squares, users and errors of a bin by value."""
    begin = START + timedelta(milliseconds=end_ms - BIN_MS - START_MS)
    inside = [
        row for row in rows if timedelta(0) <= row["occurred_at"] - begin < timedelta(minutes=5)
    ]
    by_value: dict[str, list[Row]] = defaultdict(list)
    for row in inside:
        by_value[value_of(row, dimension)].append(row)
    named = sorted(
        (value for value in by_value if value != "unknown"),
        key=lambda value: (-sum(map(tokens, by_value[value])), value),
    )
    for value in named[TOP:]:
        by_value["other"] += by_value.pop(value)
    return {
        value: (
            len(found),
            sum(map(tokens, found)),
            sum(min(tokens(row), CAP) for row in found),
            sum(min(tokens(row), CAP) ** 2 for row in found),
            sum(row["status"] != "ok" for row in found),
        )
        for value, found in by_value.items()
    }


@pytest.mark.parametrize("lateness_ms", [LATENESS_MS, None])
def test_bins_equal_a_recount(
    clickhouse: Server, fresh_database: str, lateness_ms: int | None
) -> None:
    """Every measure of every value of every end; late rows are left out if they were at the time."""
    rows = random_rows(13, 3_000, START, timedelta(hours=HOURS))
    for number, row in enumerate(rows):
        # Some in time, some just in time or just too late for the end of their bin.
        seconds = (0, 20, 29, 31, 200, 90_000)[number % 6]
        row["ingested_at"] = row["occurred_at"] + timedelta(seconds=seconds)
    landed = rows
    if lateness_ms is not None:
        landed = [
            row
            for row in rows
            if (ingested_ms := row["ingested_at"].timestamp() * 1000)
            <= (row["occurred_at"].timestamp() * 1000 // BIN_MS + 1) * BIN_MS + lateness_ms
            and ingested_ms
        ]
        assert 0 < len(landed) < len(rows)
    with migrated(clickhouse, fresh_database) as client:
        UsageEventWriter(client, fresh_database).write(as_table(rows), "rows")
        source = LandedBins(client, fresh_database, tokens_cap=CAP, lateness_ms=lateness_ms)
        dimensions = ("vendor", "model", "vendor_region", "app")
        end_ms = START_MS + HOURS * 3_600_000
        # An hour more than there are events: every end is there, empty ones too.
        history = list(landed_history(source, dimensions, START_MS, end_ms + 3_600_000, top=TOP))
    assert len(history) == 2 * HOURS * 12
    for number, bins in enumerate(history, 1):
        for dimension in dimensions:
            found = bins[dimension]
            assert found.end_ms == START_MS + number * BIN_MS
            columns = (
                found.requests,
                found.tokens,
                found.tokens_capped,
                found.tokens_capped_squared,
                found.errors,
            )
            by_value = {
                value: tuple(int(column[at]) for column in columns)
                for at, value in enumerate(found.values)
            }
            assert by_value == recount(landed, dimension, found.end_ms)
