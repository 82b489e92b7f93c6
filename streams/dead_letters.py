"""The dead-letter topic: records that can never succeed, value byte for byte.

Guarantee, from a refused record to the topic: exactly once for readers of committed records
(``isolation.level=read_committed``). The dead letters of a range are one Kafka transaction, under a
transactional id per partition: a new owner of the partition ends what an earlier one had begun and
shuts it out. Dead letters of a partition go to the partition of the same number in offset order, so
the last one there tells which of a repeated range have been sent.
"""

import asyncio
import collections
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import ConsumerRecord
from faust.types import TP
from prometheus_client import Counter

from schemas.errors import FatalError, Reason
from schemas.topics import DEAD_LETTER_TOPIC
from streams.closing import stop_consumer
from streams.partitions import Confirm

log = structlog.get_logger()

DEAD_LETTERED = Counter(
    "tokentide_records_dead_lettered", "Records sent to the dead-letter topic.", ["reason"]
)
for _reason in Reason:
    DEAD_LETTERED.labels(_reason.value)
RETRIES = Counter("tokentide_dead_letter_retries", "Transactions repeated because Kafka was away.")

STAGE_DECODE = "decode"
STAGE_INSERT = "insert"
REQUEST_TIMEOUT_MS = 30_000
BATCH_BYTES_MAX = 256 << 10
"""Before compression. A longer record batch has one letter; compression makes room for it."""
CLOSE_SECONDS_MAX = 5.0
RETRY_WAIT_SECONDS_MIN = 0.25
RETRY_WAIT_SECONDS_MAX = 5.0
LOOK_BACK_RECORDS = 64
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


class Rejected(NamedTuple):
    """A refused record: what the producer sent, where it stood and what is wrong with it.

    Attributes:
        field: Field at fault, or ``""``; the server's name of the error when ClickHouse refused it.
        stage: Where it was refused.
    """

    offset: int
    append_time_ms: int
    value: bytes | None
    reason: Reason
    field: str
    stage: str = STAGE_DECODE


def headers(tp: TP, rejected: Rejected) -> list[tuple[str, bytes]]:
    """Return the headers of a dead letter as UTF-8 text, those and the order of `HEADERS`."""
    return [
        ("origin_topic", tp.topic.encode()),
        ("origin_partition", b"%d" % tp.partition),
        ("origin_offset", b"%d" % rejected.offset),
        ("origin_timestamp_ms", b"%d" % rejected.append_time_ms),
        ("stage", rejected.stage.encode()),
        ("reason", rejected.reason.encode()),
        ("field", rejected.field.encode()),
        ("schema_version", b"1"),
    ]


class DeadLetters:
    """Sends dead letters; each call returns when all replicas have them.

    Args:
        group: The consumer group; workers of one group shut each other out per partition.
    """

    def __init__(self, bootstrap_servers: str, group: str, topic: str = DEAD_LETTER_TOPIC) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._group = group
        self._topic = topic
        self._producers: dict[TP, AIOKafkaProducer] = {}

    async def release(self) -> None:
        """Disconnect; the partitions may have other owners from now on."""
        for tp in list(self._producers):
            await self._close(tp)

    async def send(
        self, tp: TP, rejected: Sequence[Rejected], *, is_repeat: bool, confirm: Confirm
    ) -> None:
        """Send the dead letters of a range, in offset order, while Kafka is away again and again.

        Args:
            tp: Where the records stood.
            rejected: In any order.
            is_repeat: Pass over those that an earlier owner of the range has sent.
            confirm: Asks whether the partition is ours.

        Raises:
            PartitionLostError: If it is not; nothing has been sent then.
            FatalError: If the topic can't take them.
        """
        if not rejected:
            return
        letters = sorted(rejected, key=lambda each: each.offset)
        wait_seconds = RETRY_WAIT_SECONDS_MIN
        while True:
            try:
                sent = await self._send_once(tp, letters, is_repeat, confirm)
            except ProducerFenced:
                # Another owner, or one that only believes to be: the broker knows.
                await self._close(tp)
                await confirm(is_urgent=True)
            except KafkaError as error:
                await self._close(tp)
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise FatalError(
                        f"dead-letter topic {self._topic}/{tp.partition} refuses records: {error!r}"
                    ) from error
                RETRIES.inc()
                log.warning("dead_letters.failed", error=repr(error), retry_seconds=wait_seconds)
                await asyncio.sleep(wait_seconds * random.uniform(0.75, 1.25))
                wait_seconds = min(wait_seconds * 2, RETRY_WAIT_SECONDS_MAX)
            else:
                _count(tp, sent)
                return
            is_repeat = True  # Whether the transaction went through is not known.

    async def _send_once(
        self, tp: TP, letters: list[Rejected], is_repeat: bool, confirm: Confirm
    ) -> list[Rejected]:
        """Return what was sent."""
        producer = self._producers.get(tp) or await self._open(tp, confirm)
        sent_through = await self._sent_through(tp) if is_repeat else -1
        fresh = [each for each in letters if each.offset > sent_through]
        if not fresh:
            return []
        async with producer.transaction():
            futures = [
                await producer.send_batch(batch, self._topic, partition=tp.partition)
                for batch in _batches(producer, tp, fresh)
            ]
            for future in futures:
                await future
        return fresh

    async def _open(self, tp: TP, confirm: Confirm) -> AIOKafkaProducer:
        """Return a producer that has shut out every earlier owner of the partition."""
        producer = self._producers[tp] = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap_servers,
            transactional_id=f"{self._group}:{tp.topic}:{tp.partition}",
            compression_type="zstd",  # A third of the time of lz4, which aiokafka writes at level 9.
            max_batch_size=BATCH_BYTES_MAX,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await producer.start()
        # After, not before: whoever has lost the partition may have shut out its owner just now,
        # which will then ask the same question and get the other answer.
        await confirm(is_urgent=True)
        if tp.partition not in await producer.partitions_for(self._topic):
            raise FatalError(
                f"dead-letter topic {self._topic} has no partition {tp.partition}: a dead letter"
                f" keeps its partition number; raise it to those of {tp.topic}: tokentide topics"
            )
        return producer

    async def _close(self, tp: TP) -> None:
        producer = self._producers.pop(tp, None)
        if producer is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                await producer.stop()
        except (KafkaError, TimeoutError) as error:
            log.debug("dead_letters.close_failed", error=repr(error))

    async def _sent_through(self, tp: TP) -> int:
        """Return the origin offset of the partition's last dead letter, or -1."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        await consumer.start()
        try:
            target = TopicPartition(self._topic, tp.partition)
            consumer.assign([target])
            end = (await consumer.end_offsets([target]))[target]
            begin = (await consumer.beginning_offsets([target]))[target]
            look_back = LOOK_BACK_RECORDS
            while True:
                start = max(end - look_back, begin)
                found = await _read(consumer, target, start, end)
                mine = [each for each in found if _origin_topic(each) == tp.topic]
                if mine:
                    return int(dict(mine[-1].headers)["origin_offset"])
                if start == begin:
                    return -1
                look_back *= 8  # All of it were markers, or another topic's.
        finally:
            await stop_consumer(consumer)


async def _read(
    consumer: AIOKafkaConsumer, target: TopicPartition, start: int, end: int
) -> list[ConsumerRecord[bytes, bytes]]:
    """Return the committed records of ``[start, end)``."""
    consumer.seek(target, start)
    records: list[ConsumerRecord[bytes, bytes]] = []
    while await consumer.position(target) < end:
        found = await consumer.getmany(target, timeout_ms=1000)
        records += found.get(target, [])
    return [each for each in records if each.offset < end]


def _batches(
    producer: AIOKafkaProducer, tp: TP, letters: Sequence[Rejected]
) -> Iterator[BatchBuilder]:
    """Yield record batches of at most `BATCH_BYTES_MAX`, or of one longer letter."""
    batch = producer.create_batch()
    place = f"{tp.topic}:{tp.partition}:".encode()
    for each in letters:
        key = b"%b%d" % (place, each.offset)
        while (
            batch.append(timestamp=None, key=key, value=each.value, headers=headers(tp, each))
            is None
        ):
            yield batch
            batch = producer.create_batch()
    yield batch


def _origin_topic(record: ConsumerRecord[bytes, bytes]) -> str:
    topic: bytes = dict(record.headers).get("origin_topic", b"")
    return topic.decode(errors="replace")


def _count(tp: TP, sent: Sequence[Rejected]) -> None:
    reasons = collections.Counter(each.reason for each in sent)
    for reason, records in reasons.items():
        DEAD_LETTERED.labels(reason).inc(records)
    if sent:
        log.warning(
            "records.dead_lettered",
            partition=tp.partition,
            records=len(sent),
            offset_first=sent[0].offset,
            offset_last=sent[-1].offset,
            reasons=sorted(reasons),
        )
