"""Books that are kept as a worker keeps them, without one: a topic, its group, rows, dead letters."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby

import orjson
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.httpclient import HttpClient
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from deploy.kafka_admin import admin_client
from deploy.local.processes import wait_until
from sinks.reconciling import Engine, month_of
from sinks.usage_events import UsageEventWriter
from streams.dead_letters import HEADERS
from streams.topic_offsets import UsageLog
from tests.conftest import ClickHouseAddress
from tests.integration.sinks_database import client_at, migrated, writer_at
from tests.rollups import COUNTED, TIMES
from tests.usage_rows import Row, as_table, random_rows

START = datetime(2026, 7, 31, tzinfo=UTC)
SPAN = timedelta(days=2)
TABLE_ALREADY_EXISTS = 57
CHANGE_SECONDS_MAX = 30.0
EVENT = {
    "schema_version": 1,
    "source": "synthetic",
    "occurred_at": "2026-07-31T10:00:00Z",
    "model_raw": "openai/gpt-4o",
    "tokens_prompt": 10,
    "tokens_completion": 5,
    "status": "ok",
}


@dataclass
class Books:
    """A usage topic of two partitions with what was stored of it."""

    client: HttpClient
    database: str
    bootstrap: str
    topic: str
    dead_letter_topic: str
    group: str
    ends: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})

    def __post_init__(self) -> None:
        self.engine = Engine(self.client, self.database)
        self.writer = UsageEventWriter(self.client, self.database)
        self.producer = KafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        self.consumer = KafkaConsumer(
            bootstrap_servers=self.bootstrap, group_id=self.group, enable_auto_commit=False
        )
        self.consumer.assign([TopicPartition(self.topic, each) for each in self.ends])

    def close(self) -> None:
        self.producer.close()
        self.consumer.close(autocommit=False)

    def open_log(self) -> UsageLog:
        return UsageLog(self.bootstrap, self.group, self.topic, self.dead_letter_topic)

    def produce(self, partition: int, count: int) -> range:
        """Put records on the topic; return their offsets."""
        first = self.ends[partition]
        for offset in range(first, first + count):
            value = orjson.dumps({**EVENT, "event_id": f"{partition}:{offset}"})
            self.producer.send(self.topic, value, partition=partition)
        self.producer.flush()
        self.ends[partition] = first + count
        return range(first, first + count)

    def rows(self, partition: int, offsets: range) -> list[Row]:
        """Return rows for offsets, spread over the two days."""
        rows = random_rows(
            partition * 1_000_003 + offsets.start,
            len(offsets),
            START,
            SPAN,
            first_offset=offsets.start,
        )
        return [
            {**row, "kafka_partition": partition, "event_id": f"{partition}:{row['kafka_offset']}"}
            for row in rows
        ]

    def insert(self, rows: Sequence[Row], token: str) -> None:
        """Insert rows as a worker does: one block a month."""
        ordered = sorted(rows, key=lambda row: month_of(row["occurred_at"]))
        for month, block in groupby(ordered, key=lambda row: month_of(row["occurred_at"])):
            self.writer.write(as_table(list(block)), f"{token}:{month}")

    def duplicates(self, rows: Sequence[Row]) -> None:
        """Note rows as sent again."""
        names = (
            "kafka_partition",
            "kafka_offset",
            "event_id",
            "source",
            "occurred_at",
            "ingested_at",
        )
        self.engine.insert("usage_duplicates", names, [[row[n] for n in names] for row in rows])

    def dead_letters(self, partition: int, offsets: Sequence[int], *, commits: bool = True) -> None:
        """Send dead letters as a worker does: in a transaction, to the partition of that number."""
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=f"{self.group}-{partition}"
        )
        producer.init_transactions()
        producer.begin_transaction()
        for offset in offsets:
            values = (self.topic, partition, offset, 0, "decode", "invalid_json", "", 1)
            headers = [(n, str(v).encode()) for n, v in zip(HEADERS, values, strict=True)]
            producer.send(self.dead_letter_topic, b"x", partition=partition, headers=headers)
        producer.flush()
        if commits:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
        producer.close()

    def produce_in_transaction(self, partition: int, count: int) -> range:
        """Put records on the topic whose transaction's marker takes one offset more."""
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=f"producer-{self.group}"
        )
        producer.init_transactions()
        producer.begin_transaction()
        first = self.ends[partition]
        for offset in range(first, first + count):
            value = orjson.dumps({**EVENT, "event_id": f"{partition}:{offset}"})
            producer.send(self.topic, value, partition=partition)
        producer.commit_transaction()
        producer.close()
        self.ends[partition] = first + count + 1
        return range(first, first + count)

    def commit(self, partition: int, offset: int | None = None) -> None:
        """Commit an offset, the end by default."""
        tp = TopicPartition(self.topic, partition)
        position = OffsetAndMetadata(self.ends[partition] if offset is None else offset, "", -1)
        self.consumer.commit({tp: position})

    def store(self, partition: int, count: int) -> list[Row]:
        """Produce, insert and commit; return the rows."""
        offsets = self.produce(partition, count)
        rows = self.rows(partition, offsets)
        self.insert(rows, f"{partition}:{offsets.start}")
        self.commit(partition)
        return rows

    def change(self, statement: str) -> None:
        """Change tables behind everybody's back."""
        settings = {"mutations_sync": 2, "deduplicate_insert": "disable"}

        def is_done() -> bool:
            try:
                self.client.command(statement, settings=settings)
            except DatabaseError as error:
                # Attached again while a query still uses what was detached: "Retry later".
                if error.code != TABLE_ALREADY_EXISTS:
                    raise
                return False
            return True

        assert wait_until(is_done, CHANGE_SECONDS_MAX), statement

    def delete_records(self, partition: int, before: int) -> None:
        """Let Kafka forget records, as retention does."""
        with admin_client(self.bootstrap) as admin:
            admin.delete_records({TopicPartition(self.topic, partition): before})

    def total(self, table: str) -> int:
        """Return the requests that a table has counted."""
        column = "count()" if table == "usage_events" else "sum(requests)"
        ((found,),) = self.client.query(f"SELECT {column} FROM {table}").result_rows
        return int(found)

    def counted(self, rollup: str) -> int:
        """Return the requests that a rollup has to count."""
        sql = f"SELECT {TIMES[rollup]} * countIf({COUNTED[rollup]}) FROM usage_events"
        ((found,),) = self.client.query(sql).result_rows
        return int(found)


@contextmanager
def opened(
    clickhouse: ClickHouseAddress,
    database: str,
    bootstrap: str,
    fresh_topic: Callable[..., str],
    group: str,
) -> Iterator[Books]:
    """Yield empty books; everything is closed and dropped at the end."""
    # As gateways may send.
    usage, letters = fresh_topic(2, compression_type="zstd"), fresh_topic(2)
    with migrated(clickhouse, database) as client:
        books = Books(client, database, bootstrap, usage, letters, group)
        try:
            yield books
        finally:
            books.close()


@contextmanager
def another_writer(clickhouse: ClickHouseAddress, database: str) -> Iterator[UsageEventWriter]:
    """Yield a writer with a connection of its own."""
    with client_at(writer_at(clickhouse, database)) as client:
        yield UsageEventWriter(client, database)
