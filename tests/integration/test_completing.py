"""A rollup that lost a block: it gets what it lacks, once, whoever is at it and whatever lands."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from agents.reconcile import complete_rollups, reconcile, repair
from agents.reconcile_in_background import DIFFERENCES, BackgroundReconciler
from schemas.errors import FatalError, RetryableError
from sinks.clickhouse import connect
from sinks.completing import complete_bucket
from sinks.rebuilding import rebuild_month
from sinks.reconciling import Engine
from sinks.reconciling_rollups import bucket_of, check_rollups
from sinks.rollups import ROLLUPS
from streams.topic_offsets import UsageLog
from tests.conftest import ClickHouseAddress
from tests.integration.reconcile_books import START, Books
from tests.integration.sinks_database import writer_at
from tests.usage_rows import Row

pytestmark = pytest.mark.usefixtures("short_waits")
NAMES = [rollup.name for rollup in ROLLUPS]
VIEWS = {rollup.name: rollup.view for rollup in ROLLUPS}
JULY_31 = int(START.timestamp())
BUCKET = ("usage_1m", JULY_31 + 10 * 3600)
LEFT = "SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, 'reconcile_.*_')"


def in_hour(books: Books, offsets: range, seconds: int = 3000) -> list[Row]:
    """Return rows of one hour, all of few keys."""
    at = START + timedelta(hours=10)
    return [
        {**row, "occurred_at": at + timedelta(seconds=number % seconds), "provider": "one"}
        for number, row in enumerate(books.rows(0, offsets))
    ]


def lose(books: Books, table: str, rows: list[Row], token: str) -> None:
    """Insert rows that one rollup does not get."""
    books.change(f"DETACH TABLE {VIEWS[table]}")
    books.insert(rows, token)
    books.change(f"ATTACH TABLE {VIEWS[table]}")


def is_right(books: Books, usage_log: UsageLog) -> bool:
    """Return whether every rollup holds the rows, by every key, and nothing is left over."""
    found = check_rollups(books.engine, usage_log.committed, with_keys=True)
    return found.count == 0 and not books.client.query(LEFT).result_rows


@pytest.mark.parametrize("table", NAMES)
def test_a_rollup_gets_what_it_lacks_and_no_more(
    books: Books, usage_log: UsageLog, table: str
) -> None:
    """A block of two days and two months, between others of the same keys; a second time adds nothing."""
    books.store(0, 400)
    lose(books, table, books.rows(0, books.produce(0, 300)), "lost")
    books.commit(0)
    books.store(0, 400)
    found = check_rollups(books.engine, usage_log.committed)
    lacking = {table, "usage_1d"} if table == "usage_1h" else {table}
    assert {bucket_of(each)[0] for each in found.differences} == lacking
    changed = complete_rollups(books.engine, usage_log.committed, found.differences)
    assert changed == list(found.differences)
    assert is_right(books, usage_log)
    assert books.total(table) == books.counted(table)
    assert complete_rollups(books.engine, usage_log.committed, found.differences) == []
    assert books.total(table) == books.counted(table)


def test_what_is_in_flight_hides_a_part_and_is_never_added(
    books: Books, usage_log: UsageLog
) -> None:
    """Rows of the same keys that are not committed: only what is certain is added, the rest later."""
    lose(books, "usage_1m", in_hour(books, books.produce(0, 200)), "lost")
    books.commit(0)
    books.insert(in_hour(books, books.produce(0, 100)), "in flight")
    added = complete_bucket(books.engine, usage_log.committed, BUCKET)
    assert 0 < added < 200
    assert books.total("usage_1m") == 100 + added
    books.commit(0)
    assert complete_bucket(books.engine, usage_log.committed, BUCKET) == 200 - added
    assert is_right(books, usage_log)


def test_a_key_that_has_too_much_is_left_to_a_rebuild(books: Books, usage_log: UsageLog) -> None:
    """One block lost and one counted twice: adding would hide what is wrong."""
    lose(books, "usage_1m", in_hour(books, books.produce(0, 200)), "lost")
    books.commit(0)
    books.change(
        "INSERT INTO usage_1m (minute, model, provider, requests)"
        f" VALUES ({JULY_31 + 10 * 3600}, 'acme/other', 'two', 3)"
    )
    with pytest.raises(FatalError, match="1 keys of usage_1m have more than the rows"):
        complete_bucket(books.engine, usage_log.committed, BUCKET)
    assert books.total("usage_1m") == 3
    report = reconcile(books.engine, usage_log, window_seconds=0)
    assert report.count == 1
    done = repair(books.engine, usage_log, report)
    assert (done.completed, [each.tables for each in done.rebuilt]) == ((), [("usage_1m",)])
    assert is_right(books, usage_log)


def test_a_repair_adds_what_is_lacking_without_a_rebuild(books: Books, usage_log: UsageLog) -> None:
    """Rows of the month are in flight all the while, so no rebuild could end."""
    lose(books, "usage_1h", in_hour(books, books.produce(0, 200)), "lost")
    books.commit(0)
    books.insert(books.rows(1, books.produce(1, 50)), "in flight")
    report = reconcile(books.engine, usage_log, window_seconds=0)
    lacking = {bucket_of(each)[0] for each in report.results[-1].differences}
    assert lacking == {"usage_1h", "usage_1d"}
    done = repair(books.engine, usage_log, report)
    assert (len(done.completed), done.rebuilt) == (2, ())
    books.commit(1)
    assert is_right(books, usage_log)


class Interrupted(Engine):
    """An engine at whose ``nth`` statement something else happens first."""

    def __init__(self, books: Books, nth: int, other: Callable[[], object]) -> None:
        super().__init__(books.client, books.database)
        self._left = nth
        self._other = other

    def _count(self) -> None:
        self._left -= 1
        if self._left == -1:
            self._other()

    @property
    def was_interrupted(self) -> bool:
        return self._left < 0

    def command(self, sql: str, parameters: Any = None) -> None:
        self._count()
        super().command(sql, parameters)

    def rows(self, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
        self._count()
        return super().rows(*args, **options)


def tried(function: Callable[[], object]) -> None:
    """Call it; that somebody else is at it, or took its table away, is no fault."""
    faults = "repaired by somebody|another repair|UNKNOWN_TABLE"
    try:
        function()
    except (RetryableError, FatalError) as error:
        if not re.search(faults, str(error)):
            raise


@pytest.mark.parametrize("other", ["another that completes", "a rebuild", "rows that land"])
def test_two_at_once_never_add_twice(books: Books, usage_log: UsageLog, other: str) -> None:
    """Another repair runs as a whole, or rows land, before each statement of one that completes."""
    frontier = usage_log.committed
    number = 0

    def meanwhile() -> None:
        if other == "another that completes":
            tried(lambda: complete_bucket(books.engine, frontier, BUCKET))
        elif other == "a rebuild":
            tried(lambda: rebuild_month(books.engine, frontier, 202607, ["usage_1m"]))
        else:
            books.insert(in_hour(books, books.produce(0, 20)), f"lands {number}")
            books.commit(0)

    while True:
        lose(books, "usage_1m", in_hour(books, books.produce(0, 30)), f"lost {number}")
        books.commit(0)
        engine = Interrupted(books, number, meanwhile)
        tried(lambda engine=engine: complete_bucket(engine, frontier, BUCKET))  # type: ignore[misc]
        assert books.total("usage_1m") <= books.total("usage_events"), f"statement {number}"
        complete_bucket(books.engine, frontier, BUCKET)
        assert is_right(books, usage_log), f"statement {number}"
        if not engine.was_interrupted:
            break
        number += 1
    assert number > 10


def test_one_that_was_killed_leaves_nothing_that_counts(books: Books, usage_log: UsageLog) -> None:
    """Its tables are filled and never moved: who comes next drops them."""
    lose(books, "usage_1m", in_hour(books, books.produce(0, 200)), "lost")
    books.commit(0)
    books.change("CREATE TABLE reconcile_completing_usage_1m_0 AS usage_1m")
    books.change("INSERT INTO reconcile_completing_usage_1m_0 (minute, requests) VALUES (0, 200)")
    assert complete_bucket(books.engine, usage_log.committed, BUCKET) == 200
    assert is_right(books, usage_log)


def test_the_background_run_completes_days_of_late_events(
    books: Books, clickhouse: ClickHouseAddress, usage_log: UsageLog
) -> None:
    """Stored now, of two days months ago: found, added, told as found and as repaired."""
    books.store(0, 100)
    lose(books, "usage_1d", books.rows(0, books.produce(0, 300)), "lost")
    books.commit(0)
    background = BackgroundReconciler(
        connect=lambda: connect(writer_at(clickhouse, books.database)),
        open_log=books.open_log,
        database=books.database,
        window_seconds=86_400,
        interval_seconds=1,
        is_mine=lambda: True,
    )
    assert [each.count for each in background.run_once()] == [0, 0, 0, 0]
    assert DIFFERENCES.labels("rollups")._value.get() == 0
    assert is_right(books, usage_log)
    told = books.client.query(
        "SELECT place, state FROM reconcile_differences ORDER BY place, state"
    ).result_rows
    days = ("usage_1d 2026-07-31 00:00 requests", "usage_1d 2026-08-01 00:00 requests")
    assert list(told) == [(day, state) for day in days for state in ("found", "repaired")]
