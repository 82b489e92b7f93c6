"""Dead letters on the real broker: byte for byte, with their origin, exactly once."""

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from schemas.errors import FatalError, Reason
from streams import dead_letters
from streams.dead_letters import HEADERS, DeadLetters, Rejected
from streams.transport import PartitionLostError

USAGE = TP("llm-usage-v1", 1)


@pytest.fixture(scope="module", autouse=True)
def _rubbish() -> Iterator[None]:
    """Collect the errors that fenced producers leave in futures, which nobody else asks for.

    They are logged with their traceback when they are collected. If that is within ``ast.parse``, in
    whatever test, Python 3.11 fails: tracebacks parse too.
    """
    yield
    gc.collect()


class Owner:
    """What the broker would answer to one owner's commit."""

    def __init__(self) -> None:
        self.is_lost = False
        self.asked = 0

    async def confirm(self, *, is_urgent: bool = False) -> None:
        self.asked += is_urgent
        if self.is_lost:
            raise PartitionLostError(f"{USAGE} is lost")


def rejected(offset: int, value: bytes | None = b"\xff\x00{") -> Rejected:
    return Rejected(offset, 1_780_000_000_000, value, Reason.INVALID_JSON, "")


@asynccontextmanager
async def sending(bootstrap: str, group: str, topic: str) -> AsyncIterator[DeadLetters]:
    found = DeadLetters(bootstrap, group, topic)
    try:
        yield found
    finally:
        await found.release()


async def read_all(
    bootstrap: str, topic: str, partition: int = USAGE.partition
) -> "list[ConsumerRecord[bytes, bytes]]":
    """Return the committed records of a partition, once the last transaction has ended."""
    target = TopicPartition(topic, partition)
    uncommitted = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await uncommitted.start()
    end = (await uncommitted.end_offsets([target]))[target]
    await uncommitted.stop()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        consumer.assign([target])
        found: list[ConsumerRecord[bytes, bytes]] = []
        while await consumer.position(target) < end:
            found += (await consumer.getmany(target, timeout_ms=1000)).get(target, [])
        return found
    finally:
        await consumer.stop()


async def offsets_in(bootstrap: str, topic: str) -> list[int]:
    found = await read_all(bootstrap, topic)
    return [int(dict(each.headers)["origin_offset"]) for each in found]


async def test_a_dead_letter_keeps_its_bytes_and_says_where_it_stood(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], fresh_group: str
) -> None:
    """Value byte for byte, null included; origin, stage, reason and field in the headers."""
    topic = fresh_topic(2)
    letters = [rejected(9, None), Rejected(4, 17, b"x", Reason.OUT_OF_RANGE, "tokens_prompt")]
    async with sending(kafka_bootstrap, fresh_group, topic) as sender:
        await sender.send(USAGE, letters, is_repeat=False, confirm=Owner().confirm)
    first, second = await read_all(kafka_bootstrap, topic)
    assert (first.value, second.value) == (b"x", None)
    names = {name: value.decode() for name, value in first.headers}
    assert tuple(names) == HEADERS
    assert names == {
        "origin_topic": "llm-usage-v1",
        "origin_partition": "1",
        "origin_offset": "4",
        "origin_timestamp_ms": "17",
        "stage": "decode",
        "reason": "out_of_range",
        "field": "tokens_prompt",
        "schema_version": "1",
    }


async def test_a_repeated_range_sends_only_what_is_missing(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], fresh_group: str
) -> None:
    """An owner that died after its dead letters leaves none missing and none twice."""
    topic = fresh_topic(2)
    confirm = Owner().confirm
    async with sending(kafka_bootstrap, fresh_group, topic) as earlier:
        for letters in ([rejected(3)], [rejected(5)]):
            await earlier.send(USAGE, letters, is_repeat=False, confirm=confirm)
    again = [rejected(8), rejected(3), rejected(5), rejected(6)]
    async with sending(kafka_bootstrap, fresh_group, topic) as later:
        await later.send(USAGE, again, is_repeat=True, confirm=confirm)
        await later.send(USAGE, again, is_repeat=True, confirm=confirm)
    assert await offsets_in(kafka_bootstrap, topic) == [3, 5, 6, 8]


async def test_the_first_dead_letter_of_a_partition_may_belong_to_a_repeat(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], fresh_group: str
) -> None:
    """An empty dead-letter partition says that nothing was sent."""
    topic = fresh_topic(2)
    async with sending(kafka_bootstrap, fresh_group, topic) as sender:
        await sender.send(USAGE, [rejected(0)], is_repeat=True, confirm=Owner().confirm)
    assert len(await read_all(kafka_bootstrap, topic)) == 1


async def test_an_owner_that_has_lost_the_partition_sends_nothing(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], fresh_group: str
) -> None:
    """Stopped in the middle of its transaction, or before it: the new owner's dead letters stand alone."""
    topic = fresh_topic(2)
    zombie, owner = Owner(), Owner()
    async with (
        sending(kafka_bootstrap, fresh_group, topic) as old,
        sending(kafka_bootstrap, fresh_group, topic) as new,
    ):
        await old.send(USAGE, [rejected(1)], is_repeat=False, confirm=zombie.confirm)
        producer = old._producers[USAGE]
        await producer.begin_transaction()
        await (await producer.send(topic, b"half a range", partition=USAGE.partition))
        zombie.is_lost = True
        await new.send(USAGE, [rejected(2)], is_repeat=True, confirm=owner.confirm)
        del old._producers[USAGE]
        with pytest.raises(PartitionLostError):
            await old.send(USAGE, [rejected(2)], is_repeat=False, confirm=zombie.confirm)
        # The zombie's attempt has shut the owner out, who asks the broker and goes on.
        await new.send(USAGE, [rejected(3)], is_repeat=False, confirm=owner.confirm)
        assert owner.asked > 1
        await producer.stop()
    assert await offsets_in(kafka_bootstrap, topic) == [1, 2, 3]


async def test_transactions_that_came_to_nothing_do_not_hide_the_last_dead_letter(
    kafka_bootstrap: str,
    fresh_topic: Callable[..., str],
    fresh_group: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was sent is looked for behind markers and aborted records."""
    monkeypatch.setattr(dead_letters, "LOOK_BACK_RECORDS", 2)
    topic = fresh_topic(2)
    confirm = Owner().confirm
    async with sending(kafka_bootstrap, fresh_group, topic) as sender:
        await sender.send(USAGE, [rejected(4)], is_repeat=False, confirm=confirm)
        producer = sender._producers[USAGE]
        for _ in range(20):
            await producer.begin_transaction()
            await (await producer.send(topic, b"x", partition=USAGE.partition))
            await producer.abort_transaction()
        await sender.send(USAGE, [rejected(4), rejected(5)], is_repeat=True, confirm=confirm)
    assert await offsets_in(kafka_bootstrap, topic) == [4, 5]


async def test_a_topic_with_too_few_partitions_says_what_to_do(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], fresh_group: str
) -> None:
    """The usage topic was given more partitions, the dead-letter topic was not."""
    topic = fresh_topic(1)
    async with sending(kafka_bootstrap, fresh_group, topic) as sender:
        with pytest.raises(FatalError, match="has no partition 1"):
            await sender.send(USAGE, [rejected(1)], is_repeat=False, confirm=Owner().confirm)
