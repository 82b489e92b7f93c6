"""The catalogue topic for the command line: read all of it, write some of it.

Guarantee of a write: once per call and key, acknowledged by all replicas (idempotent producer).
There is no lock: of two people who edit one model at a time, the later write counts.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from schemas.catalogue import Catalogue, decode_model
from schemas.errors import ConfigurationError, FatalError, RecordError, RetryableError
from schemas.topics import MODELS_TOPIC

CONNECT_TIMEOUT_MS = 10_000
REQUEST_TIMEOUT_MS = 10_000
READ_SECONDS_MAX = 60.0
WRITE_SECONDS_MAX = 60.0

FROM_FILES = ("source", b"files")
"""Header of what `tokentide catalogue publish` writes. A record without it is somebody's own edit,
which the next start of a local stack must not undo."""


@dataclass(frozen=True, slots=True)
class Stored:
    """The newest value of a key.

    Attributes:
        from_files: Written by `tokentide catalogue publish`, not by hand.
    """

    value: bytes
    from_files: bool


def read_values(servers: str, topic: str = MODELS_TOPIC) -> dict[str, Stored]:
    """Return the newest value of every key, deleted ones left out, undecoded.

    Raises:
        ConfigurationError: The topic does not exist.
        RetryableError: Kafka does not answer.
    """
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=CONNECT_TIMEOUT_MS,
            group_id=None,
            enable_auto_commit=False,
            allow_auto_create_topics=False,
        )
    except KafkaError as error:
        raise _no_answer(servers, error) from error
    try:
        return _read_to_end(consumer, servers, topic)
    except KafkaError as error:
        raise _sorted(servers, error) from error
    finally:
        consumer.close(autocommit=False)


def _read_to_end(consumer: KafkaConsumer, servers: str, topic: str) -> dict[str, Stored]:
    if topic not in consumer.topics():
        raise ConfigurationError(f"topic {topic} does not exist: run: tokentide topics")
    numbers = consumer.partitions_for_topic(topic)
    partitions = [TopicPartition(topic, number) for number in sorted(numbers)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions, timeout_ms=REQUEST_TIMEOUT_MS)
    values: dict[str, Stored] = {}
    deadline = time.monotonic() + READ_SECONDS_MAX
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        if time.monotonic() > deadline:
            raise RetryableError(f"kafka at {servers} did not deliver the topic {topic}")
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                key = (record.key or b"").decode(errors="replace")
                if record.value is None:
                    values.pop(key, None)
                else:
                    values[key] = Stored(record.value, FROM_FILES in record.headers)
    return values


def topic_catalogue(servers: str, skipped: Callable[[str], object]) -> Catalogue:
    """Return the catalogue of the topic, as workers know it.

    Args:
        skipped: Called with a line about each record that cannot be decoded.

    Raises:
        As `read_values`.
    """
    models = []
    for key, stored in read_values(servers).items():
        try:
            models.append(decode_model(stored.value, key.encode()))
        except RecordError as error:
            skipped(f"skipped on the topic: {key}: {error}")
    return Catalogue.of(models)


def write_values(
    servers: str,
    values: Mapping[str, bytes | None],
    topic: str = MODELS_TOPIC,
    *,
    from_files: bool = False,
    written: Callable[[], None] = lambda: None,
) -> None:
    """Write one record per key; ``None`` deletes it. Calls ``written`` after each acknowledgement.

    Raises:
        RetryableError: Not all were acknowledged. Writing again is safe.
        FatalError: Kafka refuses to take them.
    """
    if not values:
        return
    try:
        producer = KafkaProducer(
            bootstrap_servers=servers.split(","),
            bootstrap_timeout_ms=CONNECT_TIMEOUT_MS,
            enable_idempotence=True,
            acks="all",
            compression_type="lz4",
            linger_ms=20,
            max_block_ms=CONNECT_TIMEOUT_MS,
            delivery_timeout_ms=int(WRITE_SECONDS_MAX * 1000),
            allow_auto_create_topics=False,
        )
    except KafkaError as error:
        raise _no_answer(servers, error) from error
    headers = [FROM_FILES] if from_files else []
    try:
        futures = [
            producer.send(topic, key=key.encode(), value=value, headers=headers)
            for key, value in values.items()
        ]
        for future in futures:
            future.get(timeout=WRITE_SECONDS_MAX)
            written()
    except KafkaError as error:
        raise _sorted(servers, error) from error
    finally:
        producer.close(timeout=WRITE_SECONDS_MAX)


def _no_answer(servers: str, error: KafkaError) -> RetryableError:
    del error  # It says no more than that.
    return RetryableError(f"kafka at {servers} does not answer: is it running? see: tokentide up")


def _sorted(servers: str, error: KafkaError) -> FatalError | RetryableError:
    if error.retriable:
        return RetryableError(f"kafka at {servers}: {error}")
    return FatalError(f"kafka at {servers} refuses the catalogue topic: {error}")
