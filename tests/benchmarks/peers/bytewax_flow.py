"""Bytewax: Kafka source, batches collected by number and time, a sink of one worker.

Without recovery, which would make it at least once and slower: a crash begins anew.
"""

from datetime import timedelta
from typing import Any

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.run import cli_main

from schemas.topics import USAGE_TOPIC
from streams.settings import Settings
from tests.benchmarks.peers.columns import Models, rows_of
from tests.benchmarks.peers.output import Output

ROWS_MAX = 100_000
FETCH_MAX = 10_000
BATCH_WAIT = timedelta(seconds=1)


class Writing(StatelessSinkPartition):  # type: ignore[misc]
    """Inserts batches of messages."""

    def __init__(self, output: Output) -> None:
        self._output, self._models = output, Models()

    def write_batch(self, items: list[Any]) -> None:
        """Insert batches, each of them ``(key, messages)``."""
        for _, messages in items:
            values = [each.value for each in messages]
            partitions = [each.partition for each in messages]
            offsets = [each.offset for each in messages]
            self._output.read.inc(len(messages))
            self._output.insert(rows_of(values, partitions, offsets, self._models))

    def close(self) -> None:
        """Wait for what is being inserted."""
        self._output.finish()


class UsageSink(DynamicSink):  # type: ignore[misc]
    """One output for the worker."""

    def __init__(self, settings: Settings) -> None:
        self._output = Output(settings)

    def build(self, *_: object) -> Writing:
        """Return the part of a worker."""
        return Writing(self._output)


def flow_of(settings: Settings) -> Dataflow:
    """Return the dataflow."""
    flow = Dataflow("usage")
    source = KafkaSource(
        [settings.kafka_bootstrap_servers],
        [USAGE_TOPIC],
        batch_size=FETCH_MAX,
        add_config={"fetch.min.bytes": str(1 << 20), "fetch.wait.max.ms": "100"},
    )
    messages = op.input("kafka", flow, source)
    keyed = op.key_on("one key", messages, lambda _: "all")
    batches = op.collect("batch", keyed, BATCH_WAIT, ROWS_MAX)
    op.output("clickhouse", batches, UsageSink(settings))
    return flow


def main() -> None:
    """Run until stopped."""
    cli_main(flow_of(Settings.load()))


if __name__ == "__main__":
    main()
