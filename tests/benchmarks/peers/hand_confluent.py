"""A careful hand loop over confluent-kafka: big fetches, columnar batches, inserts overlapped.

At least once: offsets are committed after their rows are in. A crash in between doubles rows, and
every rollup with them.
"""

from confluent_kafka import Consumer, Message, TopicPartition

from schemas.topics import USAGE_TOPIC
from streams.settings import Settings
from tests.benchmarks.peers.columns import Models, rows_of
from tests.benchmarks.peers.output import Output

ROWS_MAX = 100_000
FETCH_MAX = 10_000
IDLE_SECONDS = 0.2


def main() -> None:
    """Run until stopped."""
    settings = Settings.load()
    output, models = Output(settings), Models()
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "group.id": settings.consumer_group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.min.bytes": 1 << 20,
            "fetch.wait.max.ms": 100,
            "queued.max.messages.kbytes": 256 << 10,
        }
    )
    consumer.subscribe([USAGE_TOPIC])
    waiting: list[Message] = []
    while True:
        messages = consumer.consume(FETCH_MAX, IDLE_SECONDS)
        output.read.inc(len(messages))
        waiting += messages
        if len(waiting) >= ROWS_MAX or (waiting and not messages):
            flush(consumer, output, models, waiting)
            waiting = []
        elif not messages:
            output.finish()


def flush(consumer: Consumer, output: Output, models: Models, messages: list[Message]) -> None:
    """Insert a batch; its offsets are committed once it is in."""
    partitions = [each.partition() for each in messages]
    offsets = [each.offset() for each in messages]
    rows = rows_of([each.value() for each in messages], partitions, offsets, models)
    ends = dict(zip(partitions, offsets, strict=True))

    def commit() -> None:
        consumer.commit(
            offsets=[TopicPartition(USAGE_TOPIC, p, offset + 1) for p, offset in ends.items()],
            asynchronous=True,
        )

    output.insert(rows, commit)


if __name__ == "__main__":
    main()
