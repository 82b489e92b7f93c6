"""Records of our own to a topic: sent again and again while Kafka is away, acknowledged by all replicas."""

import asyncio
import random
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError
from prometheus_client import Counter

from schemas.errors import FatalError
from streams.partitions import Confirm

log = structlog.get_logger()

RETRIES = Counter(
    "tokentide_publish_retries", "Records sent again because Kafka was away.", ["topic"]
)

REQUEST_TIMEOUT_MS = 30_000
RECORD_BYTES_MAX = 16 << 20
RETRY_WAIT_SECONDS_MIN = 0.25
RETRY_WAIT_SECONDS_MAX = 5.0
CLOSE_SECONDS_MAX = 5.0


class Publisher:
    """Publishes to one topic: at least once, in the order of the calls of one caller."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._opening = asyncio.Lock()

    async def publish(
        self, records: Sequence[tuple[int, bytes, bytes]], *, confirm: Confirm | None = None
    ) -> None:
        """Return when all replicas have the records.

        Args:
            records: Partition, key and value of each.
            confirm: Asked before each try whether what they are made of is still ours.

        Raises:
            PartitionLostError: If it is not.
            FatalError: If the topic can't take them.
        """
        wait_seconds = RETRY_WAIT_SECONDS_MIN
        while True:
            if confirm is not None:
                await confirm()
            producer = None
            try:
                producer = await self._open()
                futures = [
                    await producer.send(self._topic, value, key=key, partition=partition)
                    for partition, key, value in records
                ]
                await asyncio.gather(*futures)
            except KafkaError as error:
                await self._close(producer)
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise FatalError(f"topic {self._topic} refuses records: {error!r}") from error
                RETRIES.labels(self._topic).inc()
                log.warning(
                    "publish.failed",
                    topic=self._topic,
                    error=repr(error),
                    retry_seconds=wait_seconds,
                )
                await asyncio.sleep(wait_seconds * random.uniform(0.75, 1.25))
                wait_seconds = min(wait_seconds * 2, RETRY_WAIT_SECONDS_MAX)
            else:
                return

    async def stop(self) -> None:
        """Disconnect."""
        await self._close(self._producer)

    async def _open(self) -> AIOKafkaProducer:
        async with self._opening:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap_servers,
                    acks="all",
                    compression_type="zstd",  # aiokafka writes lz4 at level 9: three times the time.
                    max_request_size=RECORD_BYTES_MAX,
                    request_timeout_ms=REQUEST_TIMEOUT_MS,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _close(self, producer: AIOKafkaProducer | None) -> None:
        if producer is not None:
            if producer is self._producer:
                self._producer = None
            await _stop(producer)


async def _stop(producer: AIOKafkaProducer) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS_MAX):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        log.debug("publisher.close_failed", error=repr(error))
