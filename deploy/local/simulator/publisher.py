"""Sends blocks to Kafka: whole record batches, every one acknowledged by all replicas.

Delivery: at least once from here to the topic; within one run the idempotent producer repeats
nothing. A batch that was not acknowledged in time may or may not be there: its events can be
sent again under the same ids.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.simulator.partitions import UInt32s, partitions_of
from schemas.errors import SinkUnavailableError

# Uncompressed bytes of a record batch: some 450 events.
_BATCH_BYTES = 256 * 1024
_BROKER_WAIT_MS = 60_000
COMPRESSIONS = ("lz4", "zstd", "none")


class Publisher:
    """A producer for one topic. Memory is bounded: aiokafka queues one batch per partition.

    Attributes:
        servers: The brokers' addresses.
        acknowledged: Records that all replicas have.
        next_offsets: After the last acknowledged record, by partition.
    """

    def __init__(self, bootstrap_servers: str, topic: str, *, compression: str = "lz4") -> None:
        self._topic = topic
        self.servers = bootstrap_servers
        self._compression = None if compression == "none" else compression
        self._waiting: set[asyncio.Future[Any]] = set()
        self._error: BaseException | None = None
        self._partition_count = 0
        self.acknowledged = 0
        self.next_offsets: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self.servers,
            enable_idempotence=True,
            acks="all",
            compression_type=self._compression,
            max_batch_size=_BATCH_BYTES,
            request_timeout_ms=_BROKER_WAIT_MS,
        )
        try:
            await self._producer.start()
            partitions = await self._producer.partitions_for(self._topic)
        except KafkaError as error:
            await self._producer.stop()
            raise SinkUnavailableError(
                f"no kafka at {self.servers}: {_fact(error)}; is the stack up?"
            ) from error
        self._partition_count = len(partitions)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._producer.stop()

    async def send(
        self, values: Sequence[bytes], keys: Sequence[bytes], key_hashes: UInt32s
    ) -> None:
        """Queue the records; wait while the broker is behind.

        Raises:
            SinkUnavailableError: If an earlier or this batch was not acknowledged in time.
        """
        partitions = partitions_of(key_hashes, self._partition_count)
        for partition in range(self._partition_count):
            rows = np.flatnonzero(partitions == partition).tolist()
            batch = self._producer.create_batch()
            for row in rows:
                if batch.append(timestamp=None, key=keys[row], value=values[row]) is None:
                    await self._submit(batch, partition)
                    batch = self._producer.create_batch()
                    added = batch.append(timestamp=None, key=keys[row], value=values[row])
                    assert added is not None, "a record is larger than a batch"
            if batch.record_count():
                await self._submit(batch, partition)

    async def flush(self) -> None:
        """Wait until everything queued is acknowledged.

        Raises:
            SinkUnavailableError: If something was not.
        """
        if self._waiting:
            await asyncio.wait(self._waiting)
        self._check()

    async def _submit(self, batch: Any, partition: int) -> None:
        self._check()
        batch.close()
        count = batch.record_count()
        try:
            future = await self._producer.send_batch(batch, self._topic, partition=partition)
        except KafkaError as error:
            self._error = error
        else:
            self._waiting.add(future)
            future.add_done_callback(lambda done: self._done(done, partition, count))
        self._check()

    def _done(self, future: "asyncio.Future[Any]", partition: int, count: int) -> None:
        self._waiting.discard(future)
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            self._error = self._error or error or asyncio.CancelledError()
            return
        self.acknowledged += count
        after = future.result().offset + count
        self.next_offsets[partition] = max(after, self.next_offsets.get(partition, 0))

    def _check(self) -> None:
        if self._error is not None:
            raise SinkUnavailableError(
                f"kafka did not acknowledge: {_fact(self._error)}; {self.acknowledged} records are in"
            ) from self._error


async def end_offsets(bootstrap_servers: str, topic: str) -> dict[int, int]:
    """Return the end offset of every partition.

    Raises:
        SinkUnavailableError: If the broker does not answer or has no such topic.
    """
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers)
    try:
        await consumer.start()
        partitions = consumer.partitions_for_topic(topic) or set()
        ends = await consumer.end_offsets([TopicPartition(topic, p) for p in partitions])
    except KafkaError as error:
        raise SinkUnavailableError(
            f"no kafka at {bootstrap_servers}: {_fact(error)}; is the stack up?"
        ) from error
    finally:
        await consumer.stop()
    return {tp.partition: int(offset) for tp, offset in ends.items()}


def _fact(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
