"""Dead letters as commands see them: read from the topic, filtered, with their origin.

Reads committed records only: a range's dead letters are written in one Kafka transaction.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from deploy.kafka_admin import admin_client
from schemas.errors import ConfigurationError, FatalError, RetryableError

CONNECT_TIMEOUT_MS = 10_000
REQUEST_TIMEOUT_MS = 10_000
POLL_MS = 500
POLL_RECORDS_MAX = 2000
FETCH_BYTES_MAX = 4 << 20
"""Of one partition and fetch; a larger record batch still arrives whole."""
TIME_MS_END = 4_102_444_800_000
"""2100-01-01T00:00:00Z."""
SILENT_POLLS_MAX = 180
"""Empty answers in a row, of `POLL_MS` each, before Kafka counts as hung."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Partition and offset of a record, written ``partition:offset``."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a refused record stood. Offsets start again when a topic is made anew; the time differs.

    Attributes:
        append_time_ms: The broker's clock when it appended the record, epoch milliseconds.
    """

    topic: str
    position: Position
    append_time_ms: int

    @property
    def tp(self) -> Any:
        return TopicPartition(self.topic, self.position.partition)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record of the dead-letter topic.

    Attributes:
        position: Its own place in the dead-letter topic.
        refused_at_ms: Its own timestamp, epoch milliseconds: when a worker refused the record.
        origin: ``None`` if the headers do not say: no worker of tokentide wrote it.
        field: The field at fault, ``""`` when it is the record as a whole.
    """

    position: Position
    refused_at_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    origin: Origin | None
    stage: str
    reason: str
    field: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; an empty set and ``None`` take all.

    Attributes:
        since_ms, until_ms: Bounds of ``refused_at_ms``, half-open.
        partitions: Of the origin, which are those of the dead-letter topic too.
        origin_offsets: Inclusive ranges, ``None`` for no end.
    """

    reasons: frozenset[str] = frozenset()
    fields: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()
    since_ms: int | None = None
    until_ms: int | None = None
    partitions: frozenset[int] = frozenset()
    origin_offsets: tuple[tuple[int, int | None], ...] = ()

    def takes(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter is among them."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.fields or letter.field in self.fields)
            and (not self.stages or letter.stage in self.stages)
            and (self.since_ms is None or letter.refused_at_ms >= self.since_ms)
            and (self.until_ms is None or letter.refused_at_ms < self.until_ms)
            and (not self.origin_offsets or self._takes_offset(letter.origin))
        )

    def _takes_offset(self, origin: Origin | None) -> bool:
        if origin is None:
            return False
        offset = origin.position.offset
        return any(
            first <= offset and (last is None or offset <= last)
            for first, last in self.origin_offsets
        )


def parse(record: Any) -> DeadLetter:
    """Return kafka-python's record as a dead letter, whatever its headers hold."""
    named = {name: value or b"" for name, value in record.headers}

    def text(name: str) -> str:
        return named.get(name, b"").decode(errors="replace")

    return DeadLetter(
        position=Position(record.partition, record.offset),
        refused_at_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        origin=origin_of(named),
        stage=text("stage"),
        reason=text("reason"),
        field=text("field"),
    )


def origin_of(headers: Mapping[str, bytes | None]) -> Origin | None:
    """Return the origin that headers name, or ``None`` if they name none."""
    try:
        topic = (headers["origin_topic"] or b"").decode()
        partition, offset, time_ms = (
            int(headers[f"origin_{name}"] or b"")
            for name in ("partition", "offset", "timestamp_ms")
        )
    except (KeyError, ValueError):
        return None
    # What the ledger's columns hold: beyond, an origin would not be found again.
    if not topic or not 0 <= partition < 1 << 16 or not 0 <= offset < 1 << 63:
        return None
    if not 0 <= time_ms < TIME_MS_END:
        return None
    return Origin(topic, Position(partition, offset), time_ms)


class TopicReader:
    """Reads partitions of one topic from an offset to what was their end."""

    def __init__(self, consumer: Any, servers: str, topic: str, partitions: Sequence[int]) -> None:
        self._consumer = consumer
        self._servers = servers
        self.topic = topic
        self.partitions = tuple(partitions)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Return the first offset of a partition and the one after the last that may be read."""
        tp = TopicPartition(self.topic, partition)
        with _kafka_errors(self._servers):
            first = self._consumer.beginning_offsets([tp], timeout_ms=REQUEST_TIMEOUT_MS)[tp]
            end = self._consumer.end_offsets([tp], timeout_ms=REQUEST_TIMEOUT_MS)[tp]
        return int(first), int(end)

    def first_since(self, partition: int, time_ms: int) -> int | None:
        """Return the first offset whose timestamp is at or after a time; ``None`` if there is none.

        Every record before it is older, so starting there misses none.
        """
        tp = TopicPartition(self.topic, partition)
        with _kafka_errors(self._servers):
            found = self._consumer.offsets_for_times({tp: time_ms}, timeout_ms=REQUEST_TIMEOUT_MS)
        return int(found[tp].offset) if found.get(tp) else None

    def records(
        self,
        partition: int,
        first: int,
        end: int,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Any]:
        """Yield kafka-python's records of ``[first, end)``; tells ``advance`` how far it got.

        Raises:
            RetryableError: Kafka does not answer any more.
        """
        tp = TopicPartition(self.topic, partition)
        if first >= end:
            return
        with _kafka_errors(self._servers):
            self._consumer.assign([tp])
            self._consumer.seek(tp, first)
        done, silent = first, 0
        while done < end:
            with _kafka_errors(self._servers):
                polled = self._consumer.poll(timeout_ms=POLL_MS, max_records=POLL_RECORDS_MAX)
                now = min(int(self._consumer.position(tp)), end)
            silent = 0 if now > done else silent + 1
            if silent > SILENT_POLLS_MAX:
                raise RetryableError(
                    f"kafka at {self._servers} does not deliver {self.topic}/{partition}"
                    f" from offset {done}: is the partition's leader up, and no producer's"
                    " transaction open?"
                )
            for record in polled.get(tp, ()):
                if record.offset < end:
                    yield record
            advance(now - done)
            done = now


@contextmanager
def topic_reader(servers: str, topic: str) -> Iterator[TopicReader]:
    """Yield a reader of a topic's committed records.

    Raises:
        ConfigurationError: The topic does not exist.
        RetryableError: Kafka does not answer.
    """
    with admin_client(servers) as admin:
        (described,) = admin.describe_topics([topic])
    if described["error_code"]:
        raise ConfigurationError(
            f"no topic {topic} at {servers}: create the topics with tokentide topics"
        )
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with _kafka_errors(servers):
        consumer = KafkaConsumer(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=CONNECT_TIMEOUT_MS,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            max_partition_fetch_bytes=FETCH_BYTES_MAX,
            isolation_level="read_committed",
        )
    try:
        partitions = sorted(each["partition_index"] for each in described["partitions"])
        yield TopicReader(consumer, servers, topic, partitions)
    finally:
        consumer.close(autocommit=False)


Advance = Callable[[int], None]


def read_dead_letters(
    reader: TopicReader,
    wanted: Filter,
    *,
    start: Callable[[int], None] = lambda _: None,
    advance: Advance = lambda _: None,
) -> Iterator[DeadLetter]:
    """Yield the dead letters that ``wanted`` takes, partition by partition in offset order.

    What is written after the call is left out.

    Args:
        start: Is told how many offsets there are to read, before the first is.
        advance: Is told how many more have been read.

    Raises:
        ConfigurationError: A partition of ``wanted`` does not exist.
        RetryableError: Kafka does not answer.
    """
    ranges = {each: _range(reader, each, wanted) for each in _partitions(reader, wanted)}
    start(sum(max(end - first, 0) for first, end in ranges.values()))
    for partition, (first, end) in ranges.items():
        for record in reader.records(partition, first, end, advance):
            letter = parse(record)
            if wanted.takes(letter):
                yield letter


def _partitions(reader: TopicReader, wanted: Filter) -> Sequence[int]:
    if not wanted.partitions:
        return reader.partitions
    missing = sorted(wanted.partitions.difference(reader.partitions))
    if missing:
        raise ConfigurationError(
            f"topic {reader.topic} has no partition {missing[0]}:"
            f" it has 0 to {reader.partitions[-1]}"
        )
    return sorted(wanted.partitions)


def _range(reader: TopicReader, partition: int, wanted: Filter) -> tuple[int, int]:
    first, end = reader.bounds(partition)
    if wanted.since_ms is not None:
        since = reader.first_since(partition, wanted.since_ms)
        first = end if since is None else max(first, since)
    return first, end


@contextmanager
def _kafka_errors(servers: str) -> Iterator[None]:
    """Turn what kafka-python raises into an error that says what to do."""
    try:
        yield
    except KafkaError as error:
        text = f"kafka at {servers}: {type(error).__name__}: {' '.join(str(error).split())}"[:200]
        if error.retriable:
            raise RetryableError(text) from error
        raise FatalError(text) from error
