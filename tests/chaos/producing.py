"""The producer of a round: whole record batches, each acknowledged and written down with its offset."""

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from schemas.topics import USAGE_TOPIC
from tests.chaos.ledger import Chunk, Ledger

CHUNK_RECORDS_MAX = 700
REQUEST_TIMEOUT_MS = 120_000
BATCH_BYTES = 1 << 19
PAUSE_SECONDS = 0.05
STOP_SECONDS_MAX = 300.0


class Production:
    """Produces a round's records in a thread of its own until it is told to stop.

    Args:
        partitions: Returns how many partitions to produce to.
        rate: Records per second at most.
        records_max: How many, or ``None``: until it is stopped.
        waits: Produce only what is asked for by `more`.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        ledger: Ledger,
        *,
        partitions: Callable[[], int],
        rate: float,
        records_max: int | None = None,
        waits: bool = False,
    ) -> None:
        self._servers = bootstrap_servers
        self._ledger = ledger
        self._partitions = partitions
        self._rate = rate
        self._records_max = records_max
        self._limit = 0 if waits else records_max
        self._began, self._sent_before = time.monotonic(), 0
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._random = random.Random(ledger.seed)
        self._turns = itertools.count()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0
        self.acknowledged = 0
        self.next_offsets: dict[int, int] = {}

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def more(self, records: int) -> int:
        """Produce so many more, at the rate from now on; return how many it will be in all."""
        self._began, self._sent_before = time.monotonic(), self.sent
        self._limit = max(self.sent, self._limit or 0) + records
        return self._limit

    def stop(self) -> None:
        """End after all that was sent is acknowledged.

        Raises:
            RuntimeError: If something was not.
        """
        self._stop.set()
        self.join()

    def check(self) -> None:
        """Raise what the producer failed with, if it did."""
        if self._error is not None:
            raise RuntimeError(f"the producer failed: {self._error!r}") from self._error

    def halt(self) -> None:
        """End, whatever came of it."""
        self._stop.set()
        self._thread.join(STOP_SECONDS_MAX)

    def join(self) -> None:
        """Wait for the end of a production that has one; see `stop`."""
        self._thread.join(STOP_SECONDS_MAX)
        if self._thread.is_alive() or self._error is not None:
            raise RuntimeError(f"the producer failed: {self._error!r}") from self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._produce())
        except BaseException as error:
            self._error = error

    async def _produce(self) -> None:
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers,
            enable_idempotence=True,
            acks="all",
            compression_type="zstd",
            max_batch_size=BATCH_BYTES,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            metadata_max_age_ms=2000,
        )
        await producer.start()
        waiting: set[asyncio.Future[Any]] = set()
        try:
            while not self._stop.is_set() and self.sent < (self._records_max or self.sent + 1):
                due = (time.monotonic() - self._began) * self._rate
                is_enough = self._limit is not None and self.sent >= self._limit
                if is_enough or self.sent - self._sent_before > due:
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                waiting = {each for each in waiting if not each.done() or each.result()}
                waiting.add(await self._send(producer))
            if waiting:
                await asyncio.gather(*waiting)
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer) -> "asyncio.Future[Any]":
        partition = next(self._turns) % self._partitions()
        count = self._random.randint(1, CHUNK_RECORDS_MAX)
        if self._limit is not None:
            count = min(count, self._limit - self.sent)
        chunk = await asyncio.to_thread(self._ledger.chunk, partition, count)
        batch = producer.create_batch()
        for value in chunk.values:
            added = batch.append(timestamp=None, key=None, value=value)
            assert added is not None, "a chunk is larger than a batch"
        batch.close()
        while partition not in await producer.partitions_for(USAGE_TOPIC):
            await producer.client.force_metadata_update()  # It was added just now.
        future = await producer.send_batch(batch, USAGE_TOPIC, partition=partition)
        self.sent += count
        return asyncio.ensure_future(self._write_down(future, chunk))

    async def _write_down(self, future: "asyncio.Future[Any]", chunk: Chunk) -> None:
        offset = (await future).offset
        count = len(chunk.values)
        self._ledger.acknowledged(chunk, offset)
        self.acknowledged += count
        self.next_offsets[chunk.partition] = max(
            offset + count, self.next_offsets.get(chunk.partition, 0)
        )
