"""Dead letters on the real broker: byte for byte, with their origin, once."""

from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord
from faust.types import TP

from schemas.errors import Reason
from streams.dead_letters import HEADERS, DeadLetters, Rejected

USAGE = TP("llm-usage-v1", 1)


def rejected(offset: int, value: bytes | None = b"\xff\x00{") -> Rejected:
    return Rejected(offset, 1_780_000_000_000, value, Reason.INVALID_JSON, "")


async def read_all(
    bootstrap: str, topic: str, partition: int
) -> "list[ConsumerRecord[bytes, bytes]]":
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        target = TopicPartition(topic, partition)
        consumer.assign([target])
        end = (await consumer.end_offsets([target]))[target]
        found: list[ConsumerRecord[bytes, bytes]] = []
        while len(found) < end:
            found += (await consumer.getmany(target, timeout_ms=1000)).get(target, [])
        return found
    finally:
        await consumer.stop()


async def test_a_dead_letter_keeps_its_bytes_and_says_where_it_stood(
    kafka_bootstrap: str, fresh_topic: Callable[..., str]
) -> None:
    """Value byte for byte, null included; origin, stage, reason and field in the headers."""
    topic = fresh_topic(2)
    dead_letters = DeadLetters(kafka_bootstrap, topic)
    await dead_letters.start()
    await dead_letters.send(
        USAGE,
        [rejected(9, None), Rejected(4, 17, b"x", Reason.OUT_OF_RANGE, "tokens_prompt")],
        is_repeat=False,
    )
    await dead_letters.stop()
    first, second = await read_all(kafka_bootstrap, topic, USAGE.partition)
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
    kafka_bootstrap: str, fresh_topic: Callable[..., str]
) -> None:
    """An owner that died half way through its dead letters leaves none missing and none twice."""
    topic = fresh_topic(2)
    earlier, later = (DeadLetters(kafka_bootstrap, topic) for _ in range(2))
    await earlier.start()
    await earlier.send(USAGE, [rejected(3), rejected(5)], is_repeat=False)
    await earlier.stop()
    await later.start()
    await later.send(USAGE, [rejected(8), rejected(3), rejected(5), rejected(6)], is_repeat=True)
    await later.stop()
    found = await read_all(kafka_bootstrap, topic, USAGE.partition)
    assert [dict(each.headers)["origin_offset"] for each in found] == [b"3", b"5", b"6", b"8"]


async def test_the_first_dead_letter_of_a_partition_may_belong_to_a_repeat(
    kafka_bootstrap: str, fresh_topic: Callable[..., str]
) -> None:
    """An empty dead-letter partition says that nothing was sent."""
    topic = fresh_topic(2)
    dead_letters = DeadLetters(kafka_bootstrap, topic)
    await dead_letters.start()
    await dead_letters.send(USAGE, [rejected(0)], is_repeat=True)
    await dead_letters.stop()
    assert len(await read_all(kafka_bootstrap, topic, USAGE.partition)) == 1
