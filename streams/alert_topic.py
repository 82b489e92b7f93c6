"""Topic llm-share-alerts-v1: every transition of every alert.

Guarantee, from ``share_alerts`` to the topic: exactly once as long as one worker publishes. Before
its first record a publisher reads what is on the topic; two that publish for a moment while the
owner changes may both send one, which carries the same ``webhook-id``.
"""

from contextlib import suppress

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import RetryableError
from schemas.share_alert import ShareAlert, encode
from schemas.topics import SHARE_ALERTS_TOPIC
from streams.closing import stop_consumer

log = structlog.get_logger()

REQUEST_TIMEOUT_MS = 30_000
LOOK_BACK_RECORDS = 10_000
"""Records read of the end of the topic: months of alerts."""
ID_HEADER = "webhook-id"


class AlertTopic:
    """Publishes transitions, keyed by their alert; the header ``webhook-id`` names each."""

    name = "topic"

    def __init__(self, bootstrap_servers: str, topic: str = SHARE_ALERTS_TOPIC) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._published: set[str] = set()

    async def send(self, alert: ShareAlert, now_seconds: int) -> None:
        """Publish one transition, if it is not on the topic yet.

        Raises:
            RetryableError: Not now.
        """
        del now_seconds
        try:
            producer = self._producer or await self._open()
            if alert.idempotency_key in self._published:
                return
            await producer.send_and_wait(
                self._topic,
                encode(alert),
                key=alert.alert_id.encode(),
                headers=[(ID_HEADER, alert.idempotency_key.encode())],
            )
        except KafkaError as error:
            await self.release()
            raise RetryableError(f"topic {self._topic}: {error!r}") from error
        self._published.add(alert.idempotency_key)

    async def release(self) -> None:
        """Disconnect; another worker may publish from now on."""
        producer, self._producer = self._producer, None
        self._published.clear()
        if producer is not None:
            with suppress(KafkaError):
                await producer.stop()

    async def _open(self) -> AIOKafkaProducer:
        self._published = await self._read_end()
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            enable_idempotence=True,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await producer.start()
        self._producer = producer
        return producer

    async def _read_end(self) -> set[str]:
        """Return what is on the topic, of its last records."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await consumer.start()
        try:
            target = TopicPartition(self._topic, 0)
            consumer.assign([target])
            end = (await consumer.end_offsets([target]))[target]
            begin = (await consumer.beginning_offsets([target]))[target]
            consumer.seek(target, max(end - LOOK_BACK_RECORDS, begin))
            found: set[str] = set()
            while await consumer.position(target) < end:
                batches = await consumer.getmany(target, timeout_ms=1000)
                for record in batches.get(target, []):
                    found.add(dict(record.headers).get(ID_HEADER, b"").decode(errors="replace"))
            return found
        finally:
            await stop_consumer(consumer)
