"""The engine dies in the middle of inserts: what the delivery protocol takes for granted of it."""

import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from deploy.local.processes import Child
from schemas.errors import SinkUnavailableError
from sinks.clickhouse import ClickHouseAddress, connect
from sinks.migrate import migrate
from sinks.usage_events import UsageEventWriter
from tests.conftest import environment, free_port, http_answers, tokentide
from tests.integration.test_worker import wait_for
from tests.usage_rows import as_table, random_rows

START = datetime(2026, 11, 1, tzinfo=UTC)
DATABASE = "killed"
ROWS = 2000
KILLS = 8
ROLLUPS = ("usage_1m", "usage_1h", "usage_1d", "usage_context_1h")


class Inserting(threading.Thread):
    """Inserts block after block until the engine is gone."""

    def __init__(self, port: int, first: int) -> None:
        super().__init__()
        self.port = port
        self.number = first

    def run(self) -> None:
        writer = writer_at(self.port)
        try:
            while True:
                writer.write(block(self.number), f"block {self.number}")
                self.number += 1
        except SinkUnavailableError:
            return


def writer_at(port: int) -> UsageEventWriter:
    address = ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")
    return UsageEventWriter(connect(address), DATABASE)


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
            for table in ROLLUPS
        }
        return rows, found
    finally:
        client.close()


def test_a_view_never_has_what_its_table_has_not(tmp_path: Path) -> None:
    """So rows that are stored tell what landed; and the same block again completes every view.

    With 2,000 rows a block more than half of the kills fall between the table and its views.
    """
    port = free_port()
    command = tokentide("clickhouse", "--data-dir", str(tmp_path), "--port", str(port))
    engine = Child("clickhouse", command, tmp_path / "clickhouse.out", environment())
    ping = f"http://127.0.0.1:{port}/ping"
    waits = random.Random(1)
    number = incomplete = 0
    engine.start()
    try:
        wait_for(lambda: http_answers(ping), "clickhouse")
        list(
            migrate(
                connect(ClickHouseAddress("127.0.0.1", port, "writer", "writer-local")), DATABASE
            )
        )
        for _ in range(KILLS):
            inserting = Inserting(port, number)
            inserting.start()
            inserting.join(waits.uniform(0.2, 0.6))
            engine.stop(0)
            inserting.join()
            number = inserting.number
            engine.start()
            wait_for(lambda: http_answers(ping), "clickhouse again")
            rows, rollups = rows_in(port)
            assert rows in (number * ROWS, (number + 1) * ROWS), "acknowledged rows are gone"
            assert max(rollups.values()) <= rows, rollups
            incomplete += min(rollups.values()) < rows
            writer_at(port).write(block(number), f"block {number}")
            number += 1
            rows, rollups = rows_in(port)
            assert rows == number * ROWS
            assert rollups == dict.fromkeys(ROLLUPS, rows)
    finally:
        engine.stop(20)
    assert incomplete, "no kill fell between a table and its views"
