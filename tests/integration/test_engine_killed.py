"""The engine dies in the middle of inserts: what the delivery protocol takes for granted of it."""

import random
import shutil
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from agents.reconcile import complete_rollups
from agents.store_usage import DUPLICATE_COLUMNS
from deploy.local.processes import Child
from schemas.errors import SinkUnavailableError
from sinks.clickhouse import ClickHouseAddress, connect
from sinks.lost_blocks import LostBlocks
from sinks.migrate import migrate
from sinks.reconciling import Engine, frontier_of_rows
from sinks.reconciling_rollups import check_rollups
from sinks.usage_events import UsageEventWriter
from tests.conftest import environment, free_port, http_answers, tokentide
from tests.integration.test_worker import wait_for
from tests.rollups import OF_ALL
from tests.usage_rows import as_table, random_rows

START = datetime(2026, 11, 1, tzinfo=UTC)
DATABASE = "killed"
ROWS = 2000
# Kills there are at least, and at most while none has fallen between a table and its views.
KILLS = 8
MOST_KILLS = 40


class Inserting(threading.Thread):
    """Inserts block after block until the engine is gone; says when the first one is on its way."""

    def __init__(self, port: int, first: int) -> None:
        super().__init__()
        self.port = port
        self.number = first
        self.begun = threading.Event()

    def run(self) -> None:
        writer = writer_at(self.port)
        rows = block(self.number)
        self.begun.set()
        try:
            while True:
                writer.write(rows, f"block {self.number}")
                self.number += 1
                rows = block(self.number)
        except SinkUnavailableError:
            return


def writer_at(port: int) -> UsageEventWriter:
    address = ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")
    return UsageEventWriter(connect(address), DATABASE)


def lost_at(port: int) -> LostBlocks:
    return LostBlocks(
        connect(ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")), DATABASE
    )


def block(number: int) -> pa.Table:
    rows = random_rows(number, ROWS, START, timedelta(hours=20), first_offset=number * ROWS)
    return as_table(rows)


def rows_in(port: int) -> tuple[int, dict[str, int]]:
    """Return the rows of usage_events, and what each rollup says."""
    client = connect(ClickHouseAddress("127.0.0.1", port, "reader", "", DATABASE))
    try:
        (rows,) = client.query("SELECT count() FROM usage_events").result_rows[0]
        found = {
            table: client.query(f"SELECT sum(requests) FROM {table}").result_rows[0][0]
            for table in OF_ALL
        }
        return rows, found
    finally:
        client.close()


def assert_sampled(port: int) -> None:
    """The rollup of sampled requests counts those that have a category."""
    client = connect(ClickHouseAddress("127.0.0.1", port, "reader", "", DATABASE))
    try:
        sampled = "SELECT countIf(category != 'unknown') FROM usage_events"
        ((rows, found),) = client.query(
            f"SELECT ({sampled}), (SELECT sum(requests) FROM usage_sampled_1d)"
        ).result_rows
        assert rows == found > 0
    finally:
        client.close()


def test_a_view_never_has_what_its_table_has_not(tmp_path: Path) -> None:
    """So rows that are stored tell what landed; and the same block again completes every view.

    A kill falls within twice the time that a block took on this machine.
    """
    port = free_port()
    command = tokentide("clickhouse", "--data-dir", str(tmp_path), "--port", str(port))
    engine = Child("clickhouse", command, tmp_path / "clickhouse.out", environment())
    ping = f"http://127.0.0.1:{port}/ping"
    waits = random.Random(1)
    kills = number = incomplete = 0
    short = dict.fromkeys(OF_ALL, 0)
    engine.start()
    try:
        wait_for(lambda: http_answers(ping), "clickhouse")
        list(
            migrate(
                connect(ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")), DATABASE
            )
        )
        writer_at(port).write(block(0), "block 0")
        started = time.monotonic()
        writer_at(port).write(block(1), "block 1")
        insert_seconds = time.monotonic() - started
        number = 2
        while kills < KILLS or (not incomplete and kills < MOST_KILLS):
            kills += 1
            inserting = Inserting(port, number)
            inserting.start()
            assert inserting.begun.wait(60)
            inserting.join(waits.uniform(0, 2 * insert_seconds))
            engine.stop(0)
            inserting.join()
            number = inserting.number
            engine.start()
            wait_for(lambda: http_answers(ping), "clickhouse again")
            rows, rollups = rows_in(port)
            assert rows in (number * ROWS, (number + 1) * ROWS), "acknowledged rows are gone"
            assert max(rollups.values()) <= rows, rollups
            incomplete += any(rows - rollups[name] > short[name] for name in OF_ALL)
            writer_at(port).write(block(number), f"block {number}")
            lost_at(port).make_good(block(number), f"block {number}")
            number += 1
            rows, rollups = rows_in(port)
            assert rows == number * ROWS
            short = {name: rows - rollups[name] for name in OF_ALL}
            assert all(each % ROWS == 0 for each in short.values()), short
        # A view's target may have lost a block whose token it kept, too.
        books = Engine(
            connect(ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")), DATABASE
        )
        frontier = frontier_of_rows(books)
        lacking = check_rollups(books, lambda: frontier).differences
        complete_rollups(books, lambda: frontier, lacking)
        assert rows_in(port) == (number * ROWS, dict.fromkeys(OF_ALL, number * ROWS))
        assert_sampled(port)
    finally:
        engine.stop(20)
    assert incomplete, "no kill fell between a table and its views"


def test_a_block_of_which_only_the_token_is_left_is_made_good(tmp_path: Path) -> None:
    """The engine dies between a block's token and its part: here the part is taken away while it is
    down. It takes the repeat for one, and stores nothing; then the table alone is made good.
    """
    port = free_port()
    command = tokentide("clickhouse", "--data-dir", str(tmp_path), "--port", str(port))
    engine = Child("clickhouse", command, tmp_path / "clickhouse.out", environment())
    ping = f"http://127.0.0.1:{port}/ping"
    address = ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")

    def start() -> None:
        engine.start()
        wait_for(lambda: http_answers(ping), "clickhouse")

    start()
    try:
        client = connect(address)
        list(migrate(client, DATABASE))
        writer, lost = UsageEventWriter(client, DATABASE), LostBlocks(client, DATABASE)
        rows, again = block(0), block(1)
        sent_again = again.select(DUPLICATE_COLUMNS)
        writer.write(rows, "rows")
        writer.write_duplicates(sent_again, "again")
        assert lost.make_good(rows, "rows") == 0
        paths = client.query(
            "SELECT path FROM system.parts WHERE active AND database = {database:String}"
            " AND table IN ('usage_events', 'usage_duplicates')",
            {"database": DATABASE},
        ).result_rows
        assert len(paths) == 2
        engine.stop(20)
        for (path,) in paths:
            shutil.rmtree(path)
        start()
        writer.write(rows, "rows")
        writer.write_duplicates(sent_again, "again")
        duplicates = "SELECT count() FROM usage_duplicates"
        reader = connect(replace(address, database=DATABASE))
        assert rows_in(port) == (0, dict.fromkeys(OF_ALL, ROWS)), "the engine has mended itself"
        assert reader.query(duplicates).result_rows == [(0,)]
        for missing in (ROWS, 0):
            assert lost.make_good(rows, "rows") == missing
            assert lost.make_duplicates_good(sent_again, "again") == missing
            assert rows_in(port) == (ROWS, dict.fromkeys(OF_ALL, ROWS))
            assert_sampled(port)
            assert reader.query(duplicates).result_rows == [(ROWS,)]
        left = reader.query("SHOW TABLES LIKE 'usage_events_%'").result_rows
        assert not [name for (name,) in left if "restored" in name]
    finally:
        engine.stop(20)
