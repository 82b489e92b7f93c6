"""Quix Streams with a batching sink: columnar batches at every checkpoint.

At least once: a checkpoint flushes the sink and commits afterwards.
"""

from quixstreams import Application
from quixstreams.sinks.base import BatchingSink, SinkBatch

from schemas.topics import USAGE_TOPIC
from streams.settings import Settings
from tests.benchmarks.peers.columns import Models, rows_of
from tests.benchmarks.peers.output import Output

ROWS_MAX = 100_000
CHECKPOINT_SECONDS = 1.0


class UsageSink(BatchingSink):  # type: ignore[misc]
    """Writes the batch of each partition."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._output, self._models = Output(settings), Models()

    def add(self, *args: object, **options: object) -> None:
        """Count, and keep for the checkpoint."""
        self._output.read.inc()
        super().add(*args, **options)

    def write(self, batch: SinkBatch) -> None:
        """Insert the records of a partition; called before its offsets are committed."""
        items = list(batch)
        values = [item.value for item in items]
        offsets = [item.offset for item in items]
        partitions = [batch.partition] * len(items)
        self._output.insert_now(rows_of(values, partitions, offsets, self._models))


def main() -> None:
    """Run until stopped."""
    settings = Settings.load()
    app = Application(
        broker_address=settings.kafka_bootstrap_servers,
        consumer_group=settings.consumer_group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        commit_interval=CHECKPOINT_SECONDS,
        commit_every=ROWS_MAX,
        consumer_extra_config={"fetch.min.bytes": 1 << 20, "fetch.wait.max.ms": 100},
        loglevel="ERROR",
    )
    topic = app.topic(USAGE_TOPIC, value_deserializer="bytes", key_deserializer="bytes")
    app.dataframe(topic).sink(UsageSink(settings))
    app.run()


if __name__ == "__main__":
    main()
