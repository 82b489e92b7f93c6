"""Send records again that Kafka holds and that nobody has stored.

A lost record can't be stored at its own offset: the worker that owns the partition is past it. So its
bytes go to the end of the same partition, where the worker takes them as any other record, and the
old offset is noted in ``usage_duplicates``: its event stands elsewhere.

Guarantee, from the lost offset to the topic: at least once. Stopped between sending and noting, a
second run sends again, and the worker drops what it has stored (``schemas/PRODUCERS.md``), else
the check of identifiers finds it.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from schemas.errors import RecordError, RetryableError
from schemas.topics import USAGE_TOPIC
from schemas.usage_event import decode
from sinks.reconciling import Engine, Say, silent
from streams.topic_offsets import UsageLog

RECORDS_PER_STEP = 5000
ACKNOWLEDGED_SECONDS_MAX = 60
_COLUMNS = (
    "kafka_partition",
    "kafka_offset",
    "event_id",
    "source",
    "occurred_at",
    "ingested_at",
)


def resend_lost(
    engine: Engine,
    usage_log: UsageLog,
    bootstrap_servers: str,
    lost: Sequence[tuple[int, int, int]],
    *,
    topic: str = USAGE_TOPIC,
    say: Say = silent,
) -> int:
    """Send the records of lost offsets again; return how many there were.

    Args:
        lost: Partition, first and next offset, as ``check_offsets`` found them.

    Raises:
        RetryableError: Kafka or ClickHouse does not answer. What was noted stays.
    """
    if not lost:
        return 0
    sent = 0
    try:
        producer = KafkaProducer(
            bootstrap_servers=bootstrap_servers.split(","), acks="all", compression_type="lz4"
        )
        try:
            for partition, start, end in lost:
                records = usage_log.whole_records(partition, (start, end))
                while step := list(islice(records, RECORDS_PER_STEP)):
                    say(f"partition {partition}: sending {len(step):,} lost records again")
                    _send(producer, topic, partition, step)
                    engine.insert("usage_duplicates", _COLUMNS, list(_notes(partition, step)))
                    sent += len(step)
        finally:
            producer.close()
    except KafkaError as error:
        raise RetryableError(
            f"kafka at {bootstrap_servers} took {sent} of the lost records: {type(error).__name__}"
        ) from None
    return sent


def _send(producer: KafkaProducer, topic: str, partition: int, records: Sequence[Any]) -> None:
    futures = [
        producer.send(
            topic,
            record.value,
            key=record.key,
            partition=partition,
            headers=[(name, value) for name, value in record.headers],
        )
        for record in records
    ]
    producer.flush(ACKNOWLEDGED_SECONDS_MAX)
    for future in futures:
        future.get(timeout=ACKNOWLEDGED_SECONDS_MAX)


def _notes(partition: int, records: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(UTC)
    for record in records:
        event_id, source, occurred_at_ms = "", "other", record.timestamp
        try:
            event = decode(record.value, append_time_ms=record.timestamp)
        except RecordError:
            pass  # The worker refuses it at its new offset: then it is a dead letter from there.
        else:
            event_id, source = event.event_id, event.source
            occurred_at_ms = event.occurred_at_ms
        occurred_at = datetime.fromtimestamp(occurred_at_ms / 1000, UTC)
        yield partition, record.offset, event_id, source, occurred_at, now
