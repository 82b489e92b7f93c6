"""Books to be checked, for the tests of their checks and repairs."""

from collections.abc import Callable, Iterator

import pytest

from sinks import reconciling_rollups
from streams.topic_offsets import UsageLog
from tests.conftest import ClickHouseAddress
from tests.integration.reconcile_books import Books, opened


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that stay in motion are looked at three times, without a pause."""
    monkeypatch.setattr(reconciling_rollups, "PASSES_MAX", 3)
    monkeypatch.setattr(reconciling_rollups, "PASS_WAIT_SECONDS", 0.0)


@pytest.fixture
def books(
    clickhouse: ClickHouseAddress,
    fresh_database: str,
    kafka_bootstrap: str,
    fresh_topic: Callable[..., str],
    fresh_group: str,
) -> Iterator[Books]:
    with opened(clickhouse, fresh_database, kafka_bootstrap, fresh_topic, fresh_group) as found:
        yield found


@pytest.fixture
def usage_log(books: Books) -> Iterator[UsageLog]:
    with books.open_log() as found:
        yield found
