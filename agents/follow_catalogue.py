"""Follow the catalogue topic: every worker knows all models, and a change from the next batch on.

Guarantee, from the topic to memory: the newest value of every key, in the order of the topic. The
follower reads the whole topic at each start and commits nothing. A record that cannot be decoded
is counted and leaves the model as it was.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.structs import ConsumerRecord
from prometheus_client import Counter, Gauge

from schemas.catalogue import Catalogue, Model, decode_model
from schemas.errors import (
    ConfigurationError,
    FatalError,
    Reason,
    RecordError,
    RetryableError,
)
from schemas.topics import MODELS_TOPIC
from streams.closing import stop_consumer

log = structlog.get_logger()

MODELS = Gauge("tokentide_catalogue_models", "Models in the catalogue that the worker uses.")
CHANGES = Counter("tokentide_catalogue_changes", "Models changed, added or removed while running.")
REFUSED = Counter(
    "tokentide_catalogue_records_refused", "Records of the catalogue topic refused.", ["reason"]
)
for _reason in Reason:
    REFUSED.labels(_reason.value)

POLL_MS = 500
ASSIGNMENT_POLL_SECONDS = 0.02
RETRY_WAIT_SECONDS = 1.0
REQUEST_TIMEOUT_MS = 10_000
START_SECONDS_MAX = 60.0
"""Longest wait for the whole topic at the start."""


class CatalogueFollower:
    """The catalogue of the topic, kept current.

    ``await start()`` returns once everything on the topic is in `current`; ``await run()`` follows
    until it is cancelled; ``await stop()`` closes the connection. `current` is replaced as a whole,
    so a reader that keeps one snapshot for a batch sees one state of the catalogue.

    If the topic is deleted and created again, the follower reads the new one from its beginning but
    keeps models that are no longer there until the worker restarts.
    """

    def __init__(self, bootstrap_servers: str, topic: str = MODELS_TOPIC) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._topic = topic
        self._consumer: AIOKafkaConsumer | None = None
        self._current = Catalogue.of(())
        self._refused = 0

    @property
    def current(self) -> Catalogue:
        """The newest snapshot. Its ``version`` tells whether it has changed."""
        return self._current

    @property
    def refused(self) -> int:
        """Records refused since `start`."""
        return self._refused

    async def start(self) -> None:
        """Read the topic up to the end it has now.

        Raises:
            ConfigurationError: The topic does not exist or holds no model.
            RetryableError: Kafka does not answer.
        """
        assert self._consumer is None, "started twice"
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap_servers,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                await self._consumer.start()
                partitions = await self._assign(self._consumer)
                changes = await self._read_to_end(self._consumer, partitions)
        except TimeoutError:
            await self.stop()
            raise RetryableError(
                f"kafka at {self._bootstrap_servers} did not deliver the topic {self._topic}"
                f" within {START_SECONDS_MAX:g} s"
            ) from None
        except KafkaError as error:
            await self.stop()
            raise _sorted(error, self._bootstrap_servers) from error
        except BaseException:
            await self.stop()
            raise
        self._apply(changes)
        if not self._current.models:
            await self.stop()
            raise ConfigurationError(
                f"topic {self._topic} is empty: run: tokentide catalogue publish"
            )
        log.info("catalogue.loaded", models=len(self._current.models), refused=self._refused)

    async def run(self) -> None:
        """Apply changes as they come. A broker that is away is waited for.

        Raises:
            FatalError: Kafka refuses in a way that will not pass, such as a missing permission.
        """
        assert self._consumer is not None, "not started"
        while True:
            try:
                batches = await self._consumer.getmany(timeout_ms=POLL_MS)
            except KafkaError as error:
                if not _will_pass(error):
                    raise _sorted(error, self._bootstrap_servers) from error
                log.warning("catalogue.read_failed", error=str(error))
                await asyncio.sleep(RETRY_WAIT_SECONDS)
                continue
            changed = self._apply(self._decode(batches.values()))
            if changed:
                CHANGES.inc(changed)
                log.info(
                    "catalogue.changed",
                    changed=changed,
                    models=len(self._current.models),
                    version=self._current.version,
                )

    async def stop(self) -> None:
        """Close the connection. `current` keeps the last snapshot."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)

    async def _assign(self, consumer: AIOKafkaConsumer) -> list[TopicPartition]:
        # topics() asks for all topics: asking for one by name could create it.
        if self._topic not in await consumer.topics():
            raise ConfigurationError(f"topic {self._topic} does not exist: run: tokentide topics")
        # Without a group a subscription is every partition, from the beginning.
        consumer.subscribe([self._topic])
        while not consumer.assignment():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(ASSIGNMENT_POLL_SECONDS)
        return sorted(consumer.assignment())

    async def _read_to_end(
        self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]
    ) -> dict[str, Model | None]:
        changes: dict[str, Model | None] = {}
        ends = await consumer.end_offsets(partitions)
        for partition, end in ends.items():
            while await consumer.position(partition) < end:
                batches = await consumer.getmany(timeout_ms=POLL_MS)
                changes |= self._decode(batches.values())
        return changes

    def _decode(
        self, batches: Iterable[Sequence["ConsumerRecord[bytes, bytes]"]]
    ) -> dict[str, Model | None]:
        """Return the last good value of every key."""
        changes: dict[str, Model | None] = {}
        for records in batches:
            for record in records:
                try:
                    model_id, model = decode_record(record.key, record.value)
                except RecordError as error:
                    self._refuse(record, error)
                else:
                    changes[model_id] = model
        return changes

    def _refuse(self, record: "ConsumerRecord[bytes, bytes]", error: RecordError) -> None:
        self._refused += 1
        REFUSED.labels(error.reason.value).inc()
        log.warning(
            "catalogue.record_refused",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=(record.key or b"")[:80].decode(errors="replace"),
            reason=error.reason.value,
            field=error.field,
        )

    def _apply(self, changes: Mapping[str, Model | None]) -> int:
        """Make one new snapshot if anything differs; return how many models do."""
        known = self._current.models
        different = {
            model_id: model for model_id, model in changes.items() if known.get(model_id) != model
        }
        if different:
            self._current = self._current.with_changes(different)
            if self._current.ambiguous:
                log.warning("catalogue.aliases_ambiguous", aliases=self._current.ambiguous[:20])
        MODELS.set(len(self._current.models))
        return len(different)


def decode_record(key: bytes | None, value: bytes | None) -> tuple[str, Model | None]:
    """Return model id and model of one record of the topic; ``None`` deletes the model.

    Raises:
        RecordError: The record has no key, its value cannot be decoded or is another model's.
    """
    if not key:
        raise RecordError(Reason.MISSING_FIELD, "key")
    if value is None:
        return key.decode(errors="replace"), None
    model = decode_model(value, key)
    return model.model_id, model


def _will_pass(error: KafkaError) -> bool:
    return error.retriable or isinstance(error, KafkaTimeoutError)


def _sorted(error: KafkaError, servers: str) -> FatalError | RetryableError:
    if _will_pass(error):
        return RetryableError(f"kafka at {servers} does not answer: {error}")
    return FatalError(f"kafka at {servers} refuses the catalogue topic: {error}")
