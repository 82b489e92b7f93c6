"""A careful hand loop over kafka-python: big fetches, columnar batches, inserts overlapped.

At least once, as `hand_confluent`.
"""

from kafka import KafkaConsumer, TopicPartition
from kafka.structs import OffsetAndMetadata

from schemas.topics import USAGE_TOPIC
from streams.settings import Settings
from tests.benchmarks.peers.columns import Models, rows_of
from tests.benchmarks.peers.output import Output

ROWS_MAX = 100_000
FETCH_MAX = 10_000
IDLE_MS = 200


def main() -> None:
    """Run until stopped."""
    settings = Settings.load()
    output, models = Output(settings), Models()
    consumer = KafkaConsumer(
        USAGE_TOPIC,
        bootstrap_servers=settings.kafka_bootstrap_servers,
        group_id=settings.consumer_group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_min_bytes=1 << 20,
        fetch_max_wait_ms=100,
        max_partition_fetch_bytes=8 << 20,
    )
    values: list[bytes] = []
    partitions: list[int] = []
    offsets: list[int] = []
    while True:
        found = consumer.poll(timeout_ms=IDLE_MS, max_records=FETCH_MAX)
        for tp, records in found.items():
            values += [record.value for record in records]
            offsets += [record.offset for record in records]
            partitions += [tp.partition] * len(records)
            output.read.inc(len(records))
        if len(values) >= ROWS_MAX or (values and not found):
            ends = dict(zip(partitions, offsets, strict=True))
            output.insert(
                rows_of(values, partitions, offsets, models),
                lambda ends=ends: commit(consumer, ends),  # type: ignore[misc]
            )
            values, partitions, offsets = [], [], []
        elif not found:
            output.finish()


def commit(consumer: KafkaConsumer, ends: dict[int, int]) -> None:
    """Commit what is in."""
    consumer.commit(
        {
            TopicPartition(USAGE_TOPIC, partition): OffsetAndMetadata(offset + 1, "", -1)
            for partition, offset in ends.items()
        }
    )


if __name__ == "__main__":
    main()
