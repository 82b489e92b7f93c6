"""Sends blocks to Kafka: whole record batches, every one acknowledged by all replicas.

Delivery: at least once from here to the topic; within one run the idempotent producer repeats
nothing. A batch that was not acknowledged in time may or may not be there: its events can be
sent again under the same ids.
"""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from deploy.local.simulator.partitions import UInt32s, partitions_of
from schemas.errors import SinkUnavailableError

# Uncompressed bytes of a record batch: some 450 events.
_BATCH_BYTES = 256 * 1024
_BROKER_WAIT_MS = 60_000
_TOPIC_WAIT_SECONDS = 10.0
# zstd first: aiokafka writes lz4 at level 9, measured at 8.9 us of CPU per event against 1.4.
COMPRESSIONS = ("zstd", "lz4", "none")


class Publisher:
    """A producer for one topic. Memory is bounded: aiokafka queues one batch per partition.

    Attributes:
        servers, topic: Where to.
        acknowledged: Records that all replicas have.
        next_offsets: After the last acknowledged record, by partition.
    """

    def __init__(
        self, bootstrap_servers: str, topic: str, *, compression: str = COMPRESSIONS[0]
    ) -> None:
        self.topic = topic
        self.servers = bootstrap_servers
        self._compression = None if compression == "none" else compression
        self._waiting: set[asyncio.Future[Any]] = set()
        self._error: BaseException | None = None
        self._partition_count = 0
        self.acknowledged = 0
        self.next_offsets: dict[int, int] = {}

    async def __aenter__(self) -> Self:
        # It logs every attempt as a line; we report what came of them.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
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
            partitions = await asyncio.wait_for(
                self._producer.partitions_for(self.topic), _TOPIC_WAIT_SECONDS
            )
        except TimeoutError:
            await self._producer.stop()
            raise SinkUnavailableError(
                f"no topic {self.topic} at {self.servers}: create it with: tokentide topics"
            ) from None
        except KafkaError as error:
            await self._producer.stop()
            raise SinkUnavailableError(
                f"no kafka at {self.servers}: {short_fact(error)}; start it with: tokentide up"
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
            future = await self._producer.send_batch(batch, self.topic, partition=partition)
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
                f"kafka did not acknowledge: {short_fact(self._error)}; {self.acknowledged} records are in"
            ) from self._error


def short_fact(error: BaseException) -> str:
    """Return the error in one line."""
    if isinstance(error, KafkaConnectionError):
        return "cannot connect"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
