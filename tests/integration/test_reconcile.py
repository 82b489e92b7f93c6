"""The books on the real broker and the real engine: each difference is found, named and repaired."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from agents.reconcile import Report, reconcile, repair
from agents.reconcile_in_background import DIFFERENCES, BackgroundReconciler
from schemas.errors import FatalError, RetryableError
from sinks import rebuilding, reconciling_rollups
from sinks.clickhouse import connect
from sinks.rebuilding import rebuild_month
from sinks.reconciling import Engine, frontier_of_rows
from sinks.reconciling_rollups import check_rollups
from streams.topic_offsets import UsageLog
from tests.conftest import ClickHouseAddress
from tests.integration.reconcile_books import Books, another_writer
from tests.integration.sinks_database import writer_at
from tests.rollups import OF_ALL
from tests.usage_rows import as_table

pytestmark = pytest.mark.usefixtures("short_waits")
WINDOW_SECONDS = 86_400
PAUSE_SECONDS = 0.1
"""Between two ranges of a writer: a second at most in a worker."""
JULY, AUGUST = 202607, 202608


def checked(books: Books, usage_log: UsageLog, **options: Any) -> Report:
    return reconcile(books.engine, usage_log, window_seconds=WINDOW_SECONDS, **options)


def places(report: Report, check: str) -> list[str]:
    (result,) = [each for each in report.results if each.check == check]
    assert result.count == len(result.differences)
    return [each.place for each in result.differences]


def notes(report: Report) -> str:
    return " ".join(note for result in report.results for note in result.notes)


def test_books_that_balance(books: Books, usage_log: UsageLog) -> None:
    """Rows, duplicates, dead letters and the marker of a transaction account for every offset."""
    books.store(0, 3000)
    offsets = books.produce(1, 30)
    rows = books.rows(1, offsets)
    books.insert(rows[:10], "1:0")
    books.duplicates(rows[10:20])
    books.dead_letters(1, offsets[20:30])
    books.dead_letters(1, [5], commits=False)
    books.insert(books.rows(1, books.produce_in_transaction(1, 10)), "1:30")
    books.commit(1)
    report = checked(books, usage_log, with_keys=True)
    assert report.count == 0, report
    assert [result.compared for result in report.results[:3]] == [3041, 3041, 3020]
    assert report.results[3].compared > 4 * 24
    assert "1 offsets hold no record" in notes(report)


def test_what_is_not_committed_is_in_flight(books: Books, usage_log: UsageLog) -> None:
    """A range that is declared and half landed is no difference, whatever of it has landed."""
    books.store(0, 100)
    offsets = books.produce(0, 100)
    rows = books.rows(0, offsets)
    books.change("DETACH TABLE usage_events_to_usage_1m")
    books.insert(rows[:50], "half")
    books.change("ATTACH TABLE usage_events_to_usage_1m")
    assert checked(books, usage_log).count == 0
    books.insert(rows[50:], "rest")
    books.commit(0)
    assert {place.split()[0] for place in places(checked(books, usage_log), "rollups")} == {
        "usage_1m"
    }


def test_a_lost_offset_is_named_as_long_as_kafka_can_tell(
    books: Books, usage_log: UsageLog
) -> None:
    """A missing row is lost while Kafka holds the record; after that nobody can tell, and says so."""
    rows = books.store(0, 500)
    books.store(1, 10)
    gone = [rows[7], rows[8], rows[300]]
    books.change(
        "DELETE FROM usage_events WHERE kafka_partition = 0 AND kafka_offset IN (7, 8, 300)"
    )
    report = checked(books, usage_log, checks=["offsets"])
    assert places(report, "offsets") == ["partition 0 offset 7 to 8", "partition 0 offset 300"]
    assert report.offsets is not None
    assert report.offsets.lost == ((0, 7, 9), (0, 300, 301))
    books.delete_records(0, 100)
    report = checked(books, usage_log, checks=["offsets"])
    assert places(report, "offsets") == ["partition 0 offset 300"]
    assert "2 offsets in 1 ranges can't be told" in notes(report)
    books.insert(gone, "again")
    assert checked(books, usage_log, checks=["offsets"]).count == 0


def test_an_offset_in_two_places_is_named(books: Books, usage_log: UsageLog) -> None:
    """A record that is stored and dead-lettered, or stored and a duplicate, is a difference."""
    rows = books.store(0, 50)
    books.dead_letters(0, [3])
    books.duplicates([rows[4]])
    report = checked(books, usage_log, checks=["offsets"])
    assert places(report, "offsets") == ["partition 0 offset 4", "partition 0 offset 3"]


def test_a_block_that_landed_twice_is_found_and_removed(books: Books, usage_log: UsageLog) -> None:
    """Equal rows under another token: named by offset, gone after the repair, rollups right."""
    rows = books.store(0, 400)
    books.insert(rows[100:103], "another token")
    report = checked(books, usage_log)
    assert places(report, "repeated_offsets") == [
        f"partition 0 offset {offset}" for offset in (100, 101, 102)
    ]
    assert report.count == 3, "rollups agree with the rows, ids are one offset each"
    repair(books.engine, usage_log, report)
    assert checked(books, usage_log, with_keys=True).count == 0
    assert {books.total(name) for name in ("usage_events", *OF_ALL)} == {400}


def test_an_event_in_two_partitions_is_found_and_moved(books: Books, usage_log: UsageLog) -> None:
    """The same id under two keys: named with both places; one stays, the other is a duplicate."""
    rows = books.store(0, 50)
    offsets = books.produce(1, 3)
    # The second pair lies on two days: a chunk of event time ends between them.
    one, two, three = [row for row in rows if 2 <= row["occurred_at"].hour < 23][:3]
    apart = (timedelta(), timedelta(hours=23), timedelta(hours=25))
    again = [
        {
            **row,
            "kafka_partition": 1,
            "kafka_offset": offset,
            "occurred_at": row["occurred_at"] + after,
        }
        for row, offset, after in zip((one, two, three), offsets, apart, strict=True)
    ]
    books.insert(again, "1:0")
    books.commit(1)
    report = checked(books, usage_log)
    assert sorted(places(report, "event_ids")) == sorted(
        f"synthetic {row['event_id']}" for row in (one, two)
    )
    assert report.count == 2
    (detail,) = [
        each.detail
        for each in report.results[2].differences
        if each.place == f"synthetic {one['event_id']}"
    ]
    assert f"partition 0 offset {one['kafka_offset']} at" in detail
    assert "partition 1 offset 0 at" in detail
    repair(books.engine, usage_log, report)
    assert checked(books, usage_log, with_keys=True).count == 0
    assert {books.total(name) for name in ("usage_events", *OF_ALL)} == {51}
    moved = books.client.query(
        "SELECT kafka_partition, kafka_offset, event_id FROM usage_duplicates ORDER BY ALL"
    ).result_rows
    assert list(moved) == [(1, 0, one["event_id"]), (1, 1, two["event_id"])]


AT = "2026-08-01 10:00:00"
DAMAGES = {
    "usage_1m": f"ALTER TABLE usage_1m DELETE WHERE toStartOfHour(minute) = '{AT}'",
    "usage_1h": f"INSERT INTO usage_1h SELECT * FROM usage_1h WHERE hour = '{AT}'",
    "usage_1d": "ALTER TABLE usage_1d UPDATE cost_nanousd = cost_nanousd + 1"
    " WHERE day = '2026-08-01'",
    "usage_context_1h": f"ALTER TABLE usage_context_1h DELETE WHERE hour = '{AT}' AND region = 'eu'",
    "usage_sampled_1d": "ALTER TABLE usage_sampled_1d UPDATE tokens_squared = tokens_squared + 1"
    " WHERE day = '2026-08-01'",
    "usage_located_1d": "ALTER TABLE usage_located_1d UPDATE requests = requests + 1"
    " WHERE day = '2026-08-01' AND language = 'pt-BR'",
    "usage_lengths_1d": "ALTER TABLE usage_lengths_1d UPDATE requests = requests + 1"
    " WHERE day = '2026-08-01' AND measured = 'both' AND tokens < 5000",
}


def test_each_rollup_that_differs_is_named_and_made_good(books: Books, usage_log: UsageLog) -> None:
    """Rows dropped, doubled and changed in each rollup: the bucket and measure, then equal again."""
    books.store(0, 2000)
    books.change("DETACH TABLE usage_1h_to_usage_1d")
    books.change(DAMAGES["usage_1m"])
    books.change(DAMAGES["usage_1h"])
    books.change("ATTACH TABLE usage_1h_to_usage_1d")
    books.change(DAMAGES["usage_1d"])
    for table in ("usage_context_1h", "usage_sampled_1d", "usage_located_1d", "usage_lengths_1d"):
        books.change(DAMAGES[table])
    report = checked(books, usage_log)
    assert sorted(places(report, "rollups")) == [
        "usage_1d 2026-08-01 00:00 cost_nanousd",
        "usage_1h 2026-08-01 10:00 requests",
        "usage_1m 2026-08-01 10:00 requests",
        "usage_context_1h 2026-08-01 10:00 requests",
        "usage_lengths_1d 2026-08-01 00:00 requests",
        "usage_located_1d 2026-08-01 00:00 requests",
        "usage_sampled_1d 2026-08-01 00:00 tokens_squared",
    ]
    assert report.count == 7
    done = repair(books.engine, usage_log, report)
    assert {each.place.split()[0] for each in done.completed} == {"usage_1m", "usage_context_1h"}
    assert [(each.month, set(each.tables)) for each in done.rebuilt] == [
        (
            AUGUST,
            {"usage_1h", "usage_1d", "usage_sampled_1d", "usage_located_1d", "usage_lengths_1d"},
        )
    ]
    assert checked(books, usage_log, with_keys=True).count == 0
    assert not books.client.query("SHOW TABLES LIKE 'reconcile_staging%'").result_rows


def test_totals_that_agree_under_a_wrong_key_are_found_by_deep(
    books: Books, usage_log: UsageLog
) -> None:
    """Requests counted for another provider: equal sums, only the comparison of keys tells."""
    books.store(0, 1000)
    books.change(
        "CREATE TABLE moved AS usage_1h",
    )
    columns = ", ".join(
        "'elsewhere'" if name == "provider" else name
        for (name, *_) in books.client.query("DESCRIBE TABLE usage_1h").result_rows
    )
    books.change(
        f"INSERT INTO moved SELECT {columns} FROM usage_1h WHERE hour = '{AT}' AND model = 'acme/large'"
    )
    books.change("DETACH TABLE usage_1h_to_usage_1d")
    books.change(f"ALTER TABLE usage_1h DELETE WHERE hour = '{AT}' AND model = 'acme/large'")
    books.change("INSERT INTO usage_1h SELECT * FROM moved")
    books.change("ATTACH TABLE usage_1h_to_usage_1d")
    assert checked(books, usage_log, checks=["rollups"]).count == 0
    report = checked(books, usage_log, checks=["rollups"], with_keys=True)
    assert places(report, "rollups") == ["usage_1h 2026-08-01 10:00 keys"]
    assert "elsewhere" in report.results[0].differences[0].detail


def test_a_missing_view_is_told_and_its_rollup_filled_after(
    books: Books, usage_log: UsageLog
) -> None:
    """A view detached during an insert: found; the repair names it, and works once it is back."""
    books.store(0, 100)
    books.change("DETACH TABLE usage_events_to_usage_context_1h")
    books.store(1, 1)
    report = checked(books, usage_log)
    assert {place.split()[0] for place in places(report, "rollups")} == {"usage_context_1h"}
    with pytest.raises(FatalError, match=r"ATTACH TABLE .*usage_events_to_usage_context_1h"):
        repair(books.engine, usage_log, report)
    books.change("ATTACH TABLE usage_events_to_usage_context_1h")
    repair(books.engine, usage_log, report)
    assert checked(books, usage_log, with_keys=True).count == 0


def test_rollups_without_rows_are_kept(books: Books, usage_log: UsageLog) -> None:
    """A month whose rows were dropped is not compared, and never made anew from nothing."""
    books.store(0, 100)
    before = books.total("usage_1h")
    books.change(f"ALTER TABLE usage_events DROP PARTITION {JULY}")
    report = checked(books, usage_log, checks=["rollups"])
    assert report.count == 0
    assert "2026-07 has rollups but no rows" in notes(report)
    with pytest.raises(FatalError, match="no rows of 2026-07"):
        rebuild_month(books.engine, usage_log.committed, JULY)
    assert books.total("usage_1h") == before


class Meddling(Engine):
    """An engine in front of which something happens just before the swap of a table."""

    def __init__(self, books: Books, before_swap: Callable[[], None]) -> None:
        super().__init__(books.client, books.database)
        self._before_swap = before_swap

    def command(self, sql: str, parameters: Any = None) -> None:
        if "REPLACE PARTITION" in sql and "usage_1h " in sql:
            self._before_swap()
        super().command(sql, parameters)


def test_a_row_that_lands_during_the_swap_is_not_lost(books: Books, usage_log: UsageLog) -> None:
    """A block lands between the last look and the swap: the proof fails, the next round has it."""
    books.store(0, 500)
    swaps: list[int] = []

    def land() -> None:
        swaps.append(1)
        if len(swaps) == 1:
            books.store(1, 100)

    rebuilt = rebuild_month(Meddling(books, land), usage_log.committed, AUGUST)
    assert len(swaps) == 2
    assert rebuilt.proof.count == 0
    assert checked(books, usage_log, with_keys=True).count == 0
    assert {books.total(name) for name in OF_ALL} == {600}


def test_traffic_that_never_pauses_changes_nothing(
    books: Books, usage_log: UsageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a row of the month is in flight nothing is swapped; the message says what to do."""
    books.store(0, 100)
    books.insert(books.rows(0, books.produce(0, 50)), "in flight")
    monkeypatch.setattr(rebuilding, "STEPS_MAX", 3)
    with pytest.raises(RetryableError, match="stop the workers"):
        rebuild_month(
            Meddling(books, lambda: pytest.fail("swapped")),
            usage_log.committed,
            AUGUST,
            sleep=lambda _: None,
        )
    books.commit(0)
    assert rebuild_month(books.engine, usage_log.committed, AUGUST).proof.count == 0


def test_a_month_of_many_rows_is_read_in_pieces(
    books: Books, usage_log: UsageLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces that cut hours and days add up, and what differs is told all the same."""
    books.store(0, 400)
    books.change(DAMAGES["usage_1d"])
    whole = checked(books, usage_log, checks=["rollups"], with_keys=True)
    asked: list[str] = []
    rows = books.engine.rows

    def counted(sql: str, *more: Any) -> list[tuple[Any, ...]]:
        asked.append(sql)
        return rows(sql, *more)

    monkeypatch.setattr(books.engine, "rows", counted)
    monkeypatch.setattr(reconciling_rollups, "ROWS_PER_READ", 30)
    in_pieces = checked(books, usage_log, checks=["rollups"], with_keys=True)
    assert sum("is_settled" in sql for sql in asked) > 400 / 30
    assert in_pieces.results == whole.results
    assert in_pieces.count == 1


def test_requests_under_another_length_are_told_by_their_keys(
    books: Books, usage_log: UsageLog
) -> None:
    """As many of a day as before: only the comparison by keys can see it, and a rebuild mends it."""
    books.store(0, 300)
    books.change(
        "INSERT INTO usage_lengths_1d SELECT day, measured, tokens + 1000000, requests"
        " FROM usage_lengths_1d WHERE measured = 'prompt' AND day = '2026-08-01'"
    )
    books.change(
        "ALTER TABLE usage_lengths_1d DELETE WHERE measured = 'prompt' AND day = '2026-08-01'"
        " AND tokens < 1000000"
    )
    assert checked(books, usage_log).count == 0
    report = checked(books, usage_log, with_keys=True)
    assert places(report, "rollups") == ["usage_lengths_1d 2026-08-01 00:00 keys"]
    assert "prompt / " in report.results[-1].differences[0].detail
    repair(books.engine, usage_log, report)
    assert checked(books, usage_log, with_keys=True).count == 0


def test_a_rollup_that_a_migration_brings_is_filled_by_a_repair(
    books: Books, usage_log: UsageLog
) -> None:
    """A database with rows from before the rollup: empty, told as such, and then right."""
    books.store(0, 500)
    for table in ("usage_sampled_1d", "usage_located_1d", "usage_lengths_1d"):
        books.change(f"TRUNCATE TABLE {table}")
    report = checked(books, usage_log)
    assert {place.split()[0] for place in places(report, "rollups")} == {
        "usage_sampled_1d",
        "usage_located_1d",
        "usage_lengths_1d",
    }
    repair(books.engine, usage_log, report)
    assert checked(books, usage_log, with_keys=True).count == 0
    assert books.total("usage_located_1d") == 500


def test_equal_rows_count_each(books: Books) -> None:
    """Steps of a rebuild that bring equal blocks: each counts, none is taken for a repeat.

    None of the rows has a category: the rollup of those that have keeps nothing of the month.
    """
    row = next(row for row in books.rows(0, range(100)) if row["occurred_at"].month == 8)
    row["category"] = "unknown"
    books.change(f"INSERT INTO usage_sampled_1d (day, requests) VALUES ('{AT[:10]}', 1)")
    books.insert([{**row, "kafka_offset": offset} for offset in range(4)], "equal")
    reached = iter((1, 2, 3, 4))
    rebuilt = rebuild_month(books.engine, lambda: {0: next(reached, 4)}, AUGUST)
    assert (rebuilt.rows, rebuilt.steps) == (4, 4)
    assert {books.total(name) for name in OF_ALL} == {4}
    assert books.total("usage_sampled_1d") == 0


def test_a_live_system_gives_no_false_alarm_and_hides_no_difference(
    books: Books, clickhouse: ClickHouseAddress
) -> None:
    """Blocks land and are committed all the while: no check finds anything, a rebuild loses nothing;
    then a block lands without a view, and is found.
    """
    books.store(0, 200)
    stopping = threading.Event()
    failures: list[BaseException] = []
    books.produce(1, 20_000)
    books.commit(1, 0)

    def keep_storing() -> None:
        first = 0
        try:
            with another_writer(clickhouse, books.database) as writer:
                while not stopping.is_set() and first < 20_000:
                    rows = books.rows(1, range(first, first + 100))
                    for month in (7, 8):
                        block = [row for row in rows if row["occurred_at"].month == month]
                        writer.write(as_table(block), f"1:{first}:{month}")
                    first += 100
                    books.commit(1, first)
                    stopping.wait(PAUSE_SECONDS)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=keep_storing)
    with books.open_log() as usage_log:
        thread.start()
        try:
            compared = 0
            for _ in range(2):
                report = checked(books, usage_log)
                assert report.count == 0, report
                compared += report.results[0].compared
            assert compared > 2 * 200, "rows landed meanwhile"
            rebuild_month(books.engine, usage_log.committed, AUGUST, ["usage_1h"])
            books.change("DETACH TABLE usage_events_to_usage_1m")
            rows = books.store(0, 1)
            books.change("ATTACH TABLE usage_events_to_usage_1m")
            at: datetime = rows[0]["occurred_at"]
            # In an hour that is being filled a small difference may have to wait until it rests.
            report = checked(books, usage_log, checks=["rollups"])
            assert {place.split()[0] for place in places(report, "rollups")} == {"usage_1m"}
        finally:
            stopping.set()
            thread.join()
        assert not failures
        report = checked(books, usage_log, with_keys=True)
        assert f"usage_1m {at:%Y-%m-%d %H}:00 requests" in places(report, "rollups")
        assert {place.split()[0] for place in places(report, "rollups")} == {"usage_1m"}
        assert books.total("usage_1h") == books.total("usage_events")


def test_the_background_run_tells_once_and_remembers(
    books: Books, clickhouse: ClickHouseAddress
) -> None:
    """New offsets only; a difference is in the metric while it lasts and in the table once."""
    books.store(0, 200)
    background = BackgroundReconciler(
        connect=lambda: connect(writer_at(clickhouse, books.database)),
        open_log=books.open_log,
        database=books.database,
        window_seconds=WINDOW_SECONDS,
        interval_seconds=1,
        is_mine=lambda: True,
    )
    assert [each.count for each in background.run_once()] == [0, 0, 0, 0]
    books.store(0, 100)
    books.change("DELETE FROM usage_events WHERE kafka_offset = 250")
    for _ in range(2):
        results = background.run_once()
        assert (results[0].compared, results[0].count) == (100, 1)
        assert DIFFERENCES.labels("offsets")._value.get() == 1
    told = books.client.query("SELECT check, place, state FROM reconcile_differences").result_rows
    assert list(told) == [("offsets", "partition 0 offset 250", "found")]
    lost = [row for row in books.rows(0, range(200, 300)) if row["kafka_offset"] == 250]
    books.insert(lost, "again")
    assert background.run_once()[0].count == 0
    assert DIFFERENCES.labels("offsets")._value.get() == 0
    assert background.run_once()[0].compared == 0


def test_check_rollups_needs_no_kafka(books: Books) -> None:
    """With nobody inserting, the highest offsets of the rows will do."""
    books.store(0, 100)
    found = check_rollups(books.engine, lambda: frontier_of_rows(books.engine), with_keys=True)
    assert (found.count, found.notes) == (0, ())
