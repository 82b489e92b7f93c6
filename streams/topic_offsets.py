"""What Kafka knows of the usage topic's offsets: committed, still held, dead-lettered, empty.

Reads only. A consumer that is assigned its partitions and never subscribes is no member of the
group, so the workers do not notice it.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiokafka
import numpy as np
import numpy.typing as npt
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError as AiokafkaError
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from schemas.errors import FatalError, RecordError, RetryableError
from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from schemas.usage_event import decode
from streams.closing import stop_consumer

CONNECT_SECONDS_MAX = 2.0
POLL_MS = 1000
RECORDS_PER_POLL = 10_000
SILENT_SECONDS_MAX = 90.0
"""Longest wait for Kafka's next records: a worker that died leaves a transaction open for a minute."""
CLOCKS_APART_MS = 600_000
"""How much the clock of a worker, which stamps dead letters, may be behind the broker's."""

OFFSET_MAX = (1 << 63) - 1

Range = tuple[int, int]
"""Offsets, half-open."""


@dataclass(frozen=True)
class DeadLettered:
    """Dead letters of one partition.

    Attributes:
        offsets: Where they came from: sorted, each once.
        complete_from: No dead letter of a record at or above this offset has been removed.
    """

    offsets: npt.NDArray[np.uint64]
    complete_from: int


class UsageLog:
    """The usage topic and its dead letters. One thread at a time.

    Raises (every method):
        RetryableError: Kafka does not answer.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        group: str,
        usage_topic: str = USAGE_TOPIC,
        dead_letter_topic: str = DEAD_LETTER_TOPIC,
    ) -> None:
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        # kafka-python 3.0.12 leaves its thread running when the first contact fails: look first.
        if not any(_listens(server) for server in bootstrap_servers.split(",")):
            raise RetryableError(f"no kafka at {bootstrap_servers}: connection refused")
        self._servers = bootstrap_servers
        self._usage_topic = usage_topic
        self._dead_letter_topic = dead_letter_topic
        self._loop = asyncio.new_event_loop()
        self._readers: dict[str, AIOKafkaConsumer] = {}
        with self._sorted():
            self._offsets = KafkaConsumer(
                bootstrap_servers=bootstrap_servers.split(","),
                group_id=group,
                enable_auto_commit=False,
                allow_auto_create_topics=False,
            )

    def _reader(self, topic: str) -> AIOKafkaConsumer:
        """Return the consumer that reads a topic: aiokafka's, which knows every compression."""
        if topic not in self._readers:
            self._readers[topic] = self._loop.run_until_complete(self._started())
        return self._readers[topic]

    async def _started(self) -> AIOKafkaConsumer:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # As the workers read: a record of an aborted transaction is none.
            isolation_level="read_committed",
        )
        try:
            await consumer.start()
        except BaseException:
            await stop_consumer(consumer)
            raise
        return consumer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for consumer in self._readers.values():
            self._loop.run_until_complete(stop_consumer(consumer))
        self._loop.close()
        self._offsets.close(autocommit=False)

    @contextmanager
    def _sorted(self) -> Iterator[None]:
        try:
            yield
        except (KafkaError, AiokafkaError, OSError) as error:
            raise RetryableError(
                f"kafka at {self._servers}: {type(error).__name__}: {' '.join(str(error).split())}"[
                    :200
                ]
            ) from None

    def committed(self) -> dict[int, int]:
        """Return the group's committed offset of each partition that has one."""
        with self._sorted():
            found = {
                tp.partition: self._offsets.committed(tp)
                for tp in self._partitions(self._usage_topic)
            }
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def begins(self) -> dict[int, int]:
        """Return the first offset that Kafka still holds of each partition."""
        with self._sorted():
            tps = self._partitions(self._usage_topic)
            found = self._offsets.beginning_offsets(tps)
        return {tp.partition: offset for tp, offset in found.items()}

    def records(self, partition: int, offsets: Range) -> Iterator[tuple[int, bool]]:
        """Yield the records that Kafka holds of a range of the usage topic, in order.

        Each is its offset and whether it decodes, so that it was to be stored.
        """
        tp = TopicPartition(self._usage_topic, partition)
        for record in self._read(tp, *offsets):
            yield record.offset, _is_event(record.value, record.timestamp)

    def whole_records(self, partition: int, offsets: Range) -> Iterator[Any]:
        """Yield aiokafka's ``ConsumerRecord`` of each record that Kafka holds of a range."""
        yield from self._read(TopicPartition(self._usage_topic, partition), *offsets)

    def dead_letters(self, since: Mapping[int, int] | None = None) -> dict[int, DeadLettered]:
        """Return the dead letters of each partition: all that Kafka holds, up to those of now.

        Args:
            since: Partition -> offset in the usage topic: those of older records may be left out.
        """
        with self._sorted():
            tps = self._partitions(self._dead_letter_topic)
            begins = self._offsets.beginning_offsets(tps)
            # The end of what is not committed too: a transaction is visible a moment after the
            # worker that ended it has gone on, so it is waited for.
            ends = self._offsets.end_offsets(tps)
        return {tp.partition: self._dead_letters_of(tp, begins[tp], ends[tp], since) for tp in tps}

    def _dead_letters_of(
        self, tp: TopicPartition, begin: int, end: int, since: Mapping[int, int] | None
    ) -> DeadLettered:
        start = begin
        if since is not None:
            start = self._dead_letter_offset(tp, since.get(tp.partition, 0), begin, end)
        origins = np.fromiter(
            (
                origin
                for record in self._read(tp, start, end)
                if (origin := self._origin(record, tp.partition)) is not None
            ),
            np.uint64,
        )
        if begin == 0:
            complete_from = 0
        elif since is not None and start > begin:
            complete_from = since.get(tp.partition, 0)
        else:
            # They stand in the order of their records: those before the first one are unknown.
            complete_from = int(origins[0]) if len(origins) else OFFSET_MAX
        return DeadLettered(np.unique(origins), complete_from)

    def _dead_letter_offset(self, tp: TopicPartition, since: int, begin: int, end: int) -> int:
        """Return where in the dead-letter topic to begin for records from ``since`` on."""
        usage = TopicPartition(self._usage_topic, tp.partition)
        with self._sorted():
            if since < self._offsets.beginning_offsets([usage])[usage]:
                return begin
            committed = self._offsets.committed(usage) or since
        try:
            record = next(self._read(usage, since, committed), None)
        except FatalError:
            return begin  # It can't be read here, only by a worker: read all dead letters.
        if record is None:
            return end
        with self._sorted():
            moment_ms = max(record.timestamp - CLOCKS_APART_MS, 0)
            found = self._offsets.offsets_for_times({tp: moment_ms})[tp]
        return end if found is None else max(int(found.offset), begin)

    def _origin(self, record: Any, partition: int) -> int | None:
        headers = dict(record.headers)
        if headers.get("origin_topic") != self._usage_topic.encode():
            return None
        if headers.get("origin_partition") != str(partition).encode():
            return None
        return int(headers["origin_offset"])

    def _partitions(self, topic: str) -> list[TopicPartition]:
        found = self._offsets.partitions_for_topic(topic)
        if not found:
            raise RetryableError(f"topic {topic} does not exist: run: tokentide topics")
        return [TopicPartition(topic, partition) for partition in sorted(found)]

    def _read(self, tp: TopicPartition, start: int, end: int) -> Iterator[Any]:
        """Yield the records of ``[start, end)`` that Kafka holds."""
        if start >= end:
            return
        wait = self._loop.run_until_complete
        at = aiokafka.TopicPartition(tp.topic, tp.partition)
        with self._sorted():
            consumer = self._reader(tp.topic)
            wait(_go_to(consumer, at, start))
        answered = time.monotonic()
        position = start
        while position < end:
            try:
                with self._sorted():
                    found = wait(
                        consumer.getmany(at, timeout_ms=POLL_MS, max_records=RECORDS_PER_POLL)
                    )
                    reached = wait(consumer.position(at))
            except (ValueError, RuntimeError) as error:
                # What workers read in their own way: streams/odd_batches.py.
                raise FatalError(
                    f"{tp.topic}/{tp.partition}: a record batch behind offset {position} can't be"
                    f" read to look offsets up: {type(error).__name__}"
                ) from None
            for record in found.get(at, []):
                if record.offset >= end:
                    return
                yield record
            if reached != position:
                answered = time.monotonic()
                position = reached
            elif time.monotonic() - answered > SILENT_SECONDS_MAX:
                raise RetryableError(
                    f"kafka at {self._servers}: {tp.topic}/{tp.partition} can't be read at offset"
                    f" {position}"
                )


async def _go_to(consumer: AIOKafkaConsumer, tp: aiokafka.TopicPartition, offset: int) -> None:
    consumer.assign([tp])
    consumer.seek(tp, offset)


def _listens(server: str) -> bool:
    host, _, port = server.strip().rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS_MAX):
            return True
    except (OSError, ValueError):
        return False


def _is_event(value: bytes | None, append_time_ms: int) -> bool:
    try:
        decode(value, append_time_ms=append_time_ms)
    except RecordError:
        return False
    return True
