"""What every peer does with its rows: insert them, count them under names the benchmark reads."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
from prometheus_client import CollectorRegistry, Counter, start_http_server

from deploy.addresses import writer_address
from sinks import clickhouse
from sinks.usage_events import TABLE
from streams.settings import Settings

INSERT_SETTINGS = {"async_insert": 0, "deduplicate_insert": "disable"}
"""None of the peers repeats an insert under a token, so none pays for remembering them."""
INSERTS_AT_ONCE = 2


class Output:
    """Inserts into ``usage_events``, two at a time, with ``/metrics`` beside it."""

    def __init__(self, settings: Settings) -> None:
        registry = CollectorRegistry()
        self.read = Counter("tokentide_records_read", "Records taken.", registry=registry)
        self._committed = Counter("tokentide_records_committed", "Rows in.", registry=registry)
        start_http_server(settings.worker_port, settings.worker_host, registry=registry)
        self._clients = [
            clickhouse.connect(writer_address(settings)) for _ in range(INSERTS_AT_ONCE)
        ]
        self._database = settings.clickhouse_database
        self._pool = ThreadPoolExecutor(INSERTS_AT_ONCE)
        self._running: list[tuple[Future[None], Callable[[], object]]] = []

    def insert(self, rows: pa.Table, landed: Callable[[], object] = lambda: None) -> None:
        """Insert in the background; ``landed`` is called in order, here, once it is done."""
        while len(self._running) >= INSERTS_AT_ONCE:
            self._finish_first()
        self._running.append((self._pool.submit(self._insert, rows), landed))

    def insert_now(self, rows: pa.Table) -> None:
        """Insert and wait."""
        self._insert(rows)

    def finish(self) -> None:
        """Wait for all inserts."""
        while self._running:
            self._finish_first()

    def _finish_first(self) -> None:
        future, landed = self._running.pop(0)
        future.result()
        landed()

    def _insert(self, rows: pa.Table) -> None:
        client = self._clients.pop()
        try:
            client.insert_arrow(TABLE, rows, self._database, dict(INSERT_SETTINGS))
        finally:
            self._clients.append(client)
        self._committed.inc(rows.num_rows)
