"""The transport's contract, against a real broker, and the defects of Faust it closes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError
from faust.types import TP

from streams.transport import FETCH_WAIT_MS, Committed, Fetched, PartitionLostError
from tests.integration.faust_app import add_reader, create_app, running, until
from tests.integration.faust_app import test_settings as settings_of

CODECS = [None, "gzip", "lz4", "zstd"]


@pytest.fixture
def new_topic(fresh_topic: Callable[..., str]) -> Callable[..., str]:
    """Create a topic with the settings of the usage topic: ``new_topic(partitions)``."""

    def create(partitions: int = 1) -> str:
        return fresh_topic(partitions, message_timestamp_type="LogAppendTime")

    return create


async def produce(
    bootstrap: str,
    topic: str,
    values: list[bytes | None],
    *,
    codec: str | None = "lz4",
    is_aborted: bool = False,
    **kwargs: Any,
) -> None:
    """Send values to partition 0 in one burst: few record batches."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, compression_type=codec, linger_ms=50, **kwargs
    )
    await producer.start()
    try:
        if producer.client and kwargs.get("transactional_id"):
            await producer.begin_transaction()
        futures = [await producer.send(topic, value, key=b"k", partition=0) for value in values]
        await asyncio.gather(*futures)
        if is_aborted:
            await producer.abort_transaction()
        elif kwargs.get("transactional_id"):
            await producer.commit_transaction()
    finally:
        await producer.stop()


class Reader:
    """Collects what an agent is handed."""

    def __init__(self) -> None:
        self.fetches: list[Fetched] = []

    async def handle(self, fetched: Fetched) -> None:
        self.fetches.append(fetched)

    def records(self) -> list[tuple[int, bytes | None]]:
        return [
            (batch.offset_of(i), value)
            for fetched in self.fetches
            for batch in fetched.batches
            for i, value in enumerate(batch.values())
        ]


async def committed(bootstrap: str, group: str, topic: str) -> int | None:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        offset: int | None = await consumer.committed(TopicPartition(topic, 0))
        return offset
    finally:
        await consumer.stop()


@pytest.mark.parametrize("codec", CODECS)
async def test_every_record_arrives_whole_and_in_order(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path, codec: str | None
) -> None:
    """Values, nulls and empties come with their own offsets, in order, and batches leave no gap."""
    topic, reader = new_topic(), Reader()
    values = [b'{"n":%d}' % i for i in range(3000)] + [
        None,
        b"",
        b"two\nlines",
        b"x" * 5000,
        b"end",
    ]
    await produce(kafka_bootstrap, topic, values, codec=codec)
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: len(reader.records()) >= len(values), "all records")
    assert reader.records() == list(enumerate(values))
    batches = [batch for fetched in reader.fetches for batch in fetched.batches]
    assert batches[0].first_offset == 0
    assert [b.first_offset for b in batches[1:]] == [b.next_offset for b in batches[:-1]]
    assert len(batches) < len(values) / 10, "record batches were not kept whole"


async def test_append_time_is_the_brokers(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """Whatever a producer claims, a record batch carries the broker's clock."""
    topic, reader = new_topic(), Reader()
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    sent = await producer.send_and_wait(topic, b"x", timestamp_ms=1, partition=0)
    await producer.stop()
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: bool(reader.fetches), "a fetch")
    assert reader.fetches[0].batches[0].append_time_ms == sent.timestamp > 1


async def test_a_start_inside_a_record_batch_skips_what_came_before(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A committed offset within a record batch starts at exactly that record, with its metadata.

    Closes: Faust seeks to the group's offsets after every signal, so a start position can only be
    given in `perform_seek`.
    """
    topic = new_topic()
    await produce(kafka_bootstrap, topic, [b"%d" % i for i in range(100)])
    settings = settings_of(kafka_bootstrap, topic, tmp_path)
    first, second = Reader(), Reader()
    app = create_app(settings)
    add_reader(app, topic, first.handle)
    async with running(app):
        await until(lambda: len(first.records()) == 100, "all records")
        await app.consumer.commit_range(TP(topic, 0), 42, "kept")
    app = create_app(settings)
    add_reader(app, topic, second.handle)
    async with running(app):
        await until(lambda: bool(second.records()), "the rest")
        assert app.consumer.committed[TP(topic, 0)] == Committed(42, "kept")
    assert second.records() == [(i, b"%d" % i) for i in range(42, 100)]
    assert second.fetches[0].batches[0].first_offset == 42


async def test_aborted_transactions_and_markers_leave_no_gap(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A transaction's marker takes an offset; batches still join up and no record is missing.

    What was aborted is not delivered, and its offsets are no gap either.
    Closes: the commit crawl of stock Faust on topics with gaps (no thread), one gap per commit.
    """
    topic, reader = new_topic(), Reader()
    for number in range(3):
        await produce(
            kafka_bootstrap,
            topic,
            [b"%d" % number] * 5,
            transactional_id=f"t-{topic}-{number}",
            is_aborted=number == 1,
        )
    await produce(kafka_bootstrap, topic, [b"last"])
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: bool(reader.records() and reader.records()[-1][1] == b"last"), "all")
    offsets = [offset for offset, _ in reader.records()]
    assert offsets == [*range(5), *range(12, 17), 18]
    batches = [batch for fetched in reader.fetches for batch in fetched.batches]
    assert [b.first_offset for b in batches[1:]] == [b.next_offset for b in batches[:-1]]


async def test_nothing_is_committed_that_was_not_asked_for(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """Events that were handed over, and a clean stop, move no offset.

    Closes: faust-streaming #606, offsets committed past records still in flight.
    """
    topic, reader = new_topic(), Reader()
    await produce(kafka_bootstrap, topic, [b"x"] * 50)
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    app.conf.broker_commit_interval = 0.1
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: len(reader.records()) == 50, "all records")
        await app.consumer.commit()
    assert await committed(kafka_bootstrap, topic, topic) is None


async def test_a_fetch_does_not_wait_long_for_idle_partitions(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """The broker answers a fetch of partitions without new records after 0.1 s.

    Closes: faust-streaming #306, 1.5 s, hard-coded, in which no other partition is fetched.
    """
    topic = new_topic(2)
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, Reader().handle)
    async with running(app):
        await until(lambda: len(app.consumer.assignment()) == 2, "an assignment")
        assert app.consumer._thread._consumer._fetcher._fetch_max_wait_ms == FETCH_WAIT_MS == 100


async def test_a_failing_agent_acknowledges_nothing_and_stops_the_worker(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """An error in the agent ends the app, and the next start reads the same records again.

    Closes: faust-streaming #189, an agent that fails acknowledges the event it failed on.
    """
    topic, reader = new_topic(), Reader()
    await produce(kafka_bootstrap, topic, [b"x"] * 50)
    settings = settings_of(kafka_bootstrap, topic, tmp_path)

    async def fail(_: Fetched) -> None:
        raise ValueError("poison")

    app = create_app(settings)
    add_reader(app, topic, fail)
    async with running(app):
        await until(lambda: app.crashed, "the crash")
    assert isinstance(app.crash_reason, ValueError)
    assert await committed(kafka_bootstrap, topic, topic) is None
    app = create_app(settings)
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: len(reader.records()) == 50, "all records again")


async def test_a_commit_of_an_old_generation_is_refused(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A worker that has lost its partition can't declare a range, hence can't store a new one."""
    topic, reader = new_topic(), Reader()
    await produce(kafka_bootstrap, topic, [b"x"] * 5)
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: bool(reader.records()), "records")
        coordinator = app.consumer._thread._consumer._coordinator
        generation, coordinator.generation = coordinator.generation, 99
        with pytest.raises(PartitionLostError):
            await app.consumer.commit_range(TP(topic, 0), 5, "")
        coordinator.generation = generation
        with pytest.raises(PartitionLostError):  # The client itself knows that it is not ours.
            await app.consumer.commit_range(TP("of-others", 0), 5, "")
    assert await committed(kafka_bootstrap, topic, topic) is None


async def test_a_coordinator_error_does_not_hang_the_worker(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """After an unexpected group error the worker joins again and goes on reading.

    Closes: faust-streaming #175, an error that aiokafka parks until somebody looks at it.
    """
    topic, reader = new_topic(), Reader()
    await produce(kafka_bootstrap, topic, [b"x"] * 5)
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, reader.handle)
    async with running(app):
        await until(lambda: len(reader.records()) == 5, "records")
        thread = app.consumer._thread
        coordinator = thread._consumer._coordinator
        original, generation = coordinator.ensure_coordinator_known, coordinator.generation
        injected: list[Exception] = []

        async def fail_once() -> None:
            if not injected:
                injected.append(GroupAuthorizationFailedError("injected"))
                raise injected[0]
            await original()

        coordinator.ensure_coordinator_known = fail_once
        thread.thread_loop.call_soon_threadsafe(coordinator.request_rejoin)
        await until(lambda: bool(injected), "the injected error")
        await until(lambda: coordinator.generation > generation, "the worker to join again")
        await produce(kafka_bootstrap, topic, [b"after"])
        await until(lambda: (5, b"after") in reader.records(), "the record after the error")


async def test_two_workers_share_partitions_and_one_takes_over(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """When a second worker comes and goes, every record is read by somebody."""
    topic = new_topic(2)
    settings = settings_of(kafka_bootstrap, topic, tmp_path)
    readers = Reader(), Reader()
    apps = create_app(settings), create_app(settings)
    for app, reader in zip(apps, readers, strict=True):
        add_reader(app, topic, reader.handle)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap)
    await producer.start()
    sent: set[tuple[int, bytes]] = set()

    async def send(count: int) -> None:
        for _ in range(count):
            number = len(sent)
            sent.add((number % 2, b"%d" % number))
            await producer.send_and_wait(topic, b"%d" % number, partition=number % 2)

    def seen() -> set[tuple[int, bytes | None]]:
        return {
            (fetched.tp.partition, value)
            for reader in readers
            for fetched in reader.fetches
            for batch in fetched.batches
            for value in batch.values()
        }

    async with running(apps[0]):
        await send(20)
        await until(lambda: seen() >= sent, "records with one worker")
        async with running(apps[1]):
            await until(
                lambda: all(len(app.consumer.assignment()) == 1 for app in apps), "a partition each"
            )
            await send(20)
            await until(lambda: seen() >= sent, "records with two workers")
        await send(20)
        await until(lambda: seen() >= sent, "records after one has left")
    await producer.stop()


async def test_a_partition_with_nothing_unread_is_told_once(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """Its new owner hears of it without a record, empty or read to the end; records come after it."""
    topic = new_topic(2)
    await produce(kafka_bootstrap, topic, [b"read"] * 3)
    settings = settings_of(kafka_bootstrap, topic, tmp_path)
    app, first = create_app(settings), Reader()
    add_reader(app, topic, first.handle)
    async with running(app):
        await until(lambda: len(first.records()) == 3, "the records")
        await app.consumer.commit_range(TP(topic, 0), 3, "")
    app, second = create_app(settings), Reader()
    add_reader(app, topic, second.handle)
    async with running(app):
        await until(lambda: len(second.fetches) == 2, "a word of each partition")
        assert all(not fetched.batches for fetched in second.fetches)
        told = {fetched.tp.partition: fetched.high_watermark for fetched in second.fetches}
        assert told == {0: 3, 1: 0}
        await produce(kafka_bootstrap, topic, [b"new"])
        await until(lambda: bool(second.records()), "the new record")
    assert second.records() == [(3, b"new")]
    assert len(second.fetches) == 3
    assert [fetched.tp.partition for fetched in first.fetches if not fetched.batches] == [1]


async def test_what_was_handed_over_is_not_kept(
    kafka_bootstrap: str, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    """A worker that reads for weeks grows by nothing.

    Closes: Faust keeps the offset of each acknowledged event until it commits one after it.
    """
    topic, reader = new_topic(), Reader()
    app = create_app(settings_of(kafka_bootstrap, topic, tmp_path))
    add_reader(app, topic, reader.handle)
    async with running(app):
        for number in range(5):
            await produce(kafka_bootstrap, topic, [b"%d" % number])
        await until(lambda: len(reader.records()) == 5, "all records")
        consumer = app.consumer
        kept = [consumer._unacked_messages, *consumer._acked.values()]
        assert not any([*kept, *consumer._acked_index.values()])
