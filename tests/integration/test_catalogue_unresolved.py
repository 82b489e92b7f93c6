"""``tokentide catalogue unresolved`` against the engine."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sinks.usage_events import UsageEventWriter
from tests.conftest import ClickHouseAddress as Server
from tests.conftest import fresh_name, run_tokentide
from tests.integration.sinks_database import migrated
from tests.usage_rows import Row, as_table, random_rows, tokens

ROWS: list[Row] = random_rows(
    40, 400, datetime.now(UTC) - timedelta(minutes=9), timedelta(minutes=5)
)
ODD = {**ROWS[0], "model": "unknown", "model_raw": "[red]\x1b[31mx", "tokens_prompt": 10**9}


@pytest.fixture(scope="module")
def settings(clickhouse: Server) -> Iterator[dict[str, Any]]:
    """Settings of a database with ROWS and ODD in it."""
    database = fresh_name("unresolved")
    with migrated(clickhouse, database) as client:
        UsageEventWriter(client, database).write(as_table([*ROWS, ODD]), "t0")
        yield {"clickhouse_port": clickhouse.port, "clickhouse_database": database}


def test_unresolved_names_are_listed_by_tokens(settings: dict[str, Any]) -> None:
    """Every raw name stored as unknown is listed with its requests and tokens, largest first."""
    run = run_tokentide("catalogue", "unresolved", "--format", "json", **settings)
    assert run.returncode == 0, run.stderr
    unknown = [row for row in [*ROWS, ODD] if row["model"] == "unknown"]
    requests = Counter(row["model_raw"] for row in unknown)
    volumes: Counter[str] = Counter()
    for row in unknown:
        volumes[row["model_raw"]] += tokens(row)
    listed = json.loads(run.stdout)
    assert len(listed) > 1
    assert [(row["model_raw"], row["requests"], row["tokens"]) for row in listed] == [
        (name, requests[name], volume) for name, volume in volumes.most_common()
    ]


def test_table_shows_names_as_they_are(settings: dict[str, Any]) -> None:
    """A producer's name cannot colour or steer the terminal, and --limit limits."""
    run = run_tokentide("catalogue", "unresolved", "--limit", "1", **settings)
    assert run.returncode == 0, run.stderr
    assert "[red]\N{REPLACEMENT CHARACTER}[31mx" in run.stdout
    assert "\x1b" not in run.stdout
    assert "raw-" not in run.stdout
