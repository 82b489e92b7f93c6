"""The dead-letter topic: records that can never succeed, value byte for byte.

Guarantee, from a refused record to the topic: at least once, and once when ranges are repeated.
The dead letters of a partition go to the partition of the same number in offset order, so the last
one there tells which of a repeated range have been sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.types import TP
from prometheus_client import Counter

from schemas.errors import FatalError, Reason
from schemas.topics import DEAD_LETTER_TOPIC

log = structlog.get_logger()

DEAD_LETTERED = Counter(
    "tokentide_records_dead_lettered", "Records sent to the dead-letter topic.", ["reason"]
)
for _reason in Reason:
    DEAD_LETTERED.labels(_reason.value)

STAGE_DECODE = "decode"
REQUEST_TIMEOUT_MS = 30_000
HEADERS = (
    "origin_topic",
    "origin_partition",
    "origin_offset",
    "origin_timestamp_ms",
    "stage",
    "reason",
    "field",
    "schema_version",
)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A refused record: what the producer sent, where it stood and what is wrong with it."""

    offset: int
    append_time_ms: int
    value: bytes | None
    reason: Reason
    field: str


def headers(tp: TP, rejected: Rejected, stage: str) -> list[tuple[str, bytes]]:
    """Return the headers of a dead letter, in the order of `HEADERS`, as UTF-8 text."""
    values = (
        tp.topic,
        tp.partition,
        rejected.offset,
        rejected.append_time_ms,
        stage,
        rejected.reason.value,
        rejected.field,
        1,
    )
    return [(name, str(value).encode()) for name, value in zip(HEADERS, values, strict=True)]


class DeadLetters:
    """Sends dead letters; each call returns when all replicas have them."""

    def __init__(self, bootstrap_servers: str, topic: str = DEAD_LETTER_TOPIC) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect to Kafka."""
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await self._producer.start()

    async def stop(self) -> None:
        """Disconnect; what was acknowledged stays."""
        if self._producer is not None:
            await self._producer.stop()

    async def send(self, tp: TP, rejected: Sequence[Rejected], *, is_repeat: bool) -> None:
        """Send the dead letters of a range, in offset order.

        Args:
            tp: Where the records stood.
            rejected: In any order.
            is_repeat: Pass over those that an earlier owner of the range has sent.
        """
        if not rejected:
            return
        assert self._producer is not None, "start() comes first"
        sent_through = await self._sent_through(tp) if is_repeat else -1
        fresh = sorted(
            (each for each in rejected if each.offset > sent_through), key=lambda r: r.offset
        )
        futures = [
            await self._producer.send(
                self._topic,
                each.value,
                key=f"{tp.topic}:{tp.partition}:{each.offset}".encode(),
                partition=tp.partition,
                headers=headers(tp, each, STAGE_DECODE),
            )
            for each in fresh
        ]
        for future in futures:
            await future
        for each in fresh:
            DEAD_LETTERED.labels(each.reason.value).inc()
        if fresh:
            log.warning(
                "records.dead_lettered",
                partition=tp.partition,
                records=len(fresh),
                offset_first=fresh[0].offset,
                offset_last=fresh[-1].offset,
                reasons=sorted({each.reason.value for each in fresh}),
            )

    async def _sent_through(self, tp: TP) -> int:
        """Return the origin offset of the partition's last dead letter, or -1."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await consumer.start()
        try:
            target = TopicPartition(self._topic, tp.partition)
            consumer.assign([target])
            end = (await consumer.end_offsets([target]))[target]
            begin = (await consumer.beginning_offsets([target]))[target]
            if end == begin:
                return -1
            consumer.seek(target, end - 1)
            found = await consumer.getmany(target, timeout_ms=REQUEST_TIMEOUT_MS)
        finally:
            await consumer.stop()
        for record in reversed(found.get(target, [])):
            names = dict(record.headers)
            if names.get("origin_topic") == tp.topic.encode():
                return int(names["origin_offset"])
        if found:
            return -1
        raise FatalError(f"dead-letter topic {self._topic}/{tp.partition} can't be read")
