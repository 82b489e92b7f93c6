"""Goes on with a replay where an earlier process stopped or was killed, sending nothing twice.

After every block that Kafka has acknowledged, the place and the end of the topic are written to a
file. What a killed process sent after its last entry is found by reading the topic from that end on.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.simulator.publisher import short_fact
from deploy.local.simulator.truth import write_json
from schemas.errors import SinkUnavailableError
from streams.closing import stop_consumer

_READ_WAIT_MS = 2_000


@dataclass(frozen=True)
class Place:
    """How far a replay has come.

    Attributes:
        id_prefix: Which replay.
        next_number: Everything below is in the topic.
        end_offsets: Of the topic, by partition, when this was written.
    """

    id_prefix: str
    next_number: int
    end_offsets: dict[int, int]

    def save(self, file: Path) -> None:
        members = asdict(self)
        members["end_offsets"] = {str(key): end for key, end in self.end_offsets.items()}
        write_json(file, members)


def load_place(file: Path, id_prefix: str, end_offsets: dict[int, int]) -> Place | None:
    """Return the saved place, or ``None`` if there is none, of another replay or another topic."""
    try:
        members = orjson.loads(file.read_bytes())
        saved = {int(key): int(end) for key, end in members["end_offsets"].items()}
        place = Place(str(members["id_prefix"]), int(members["next_number"]), saved)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    recreated = any(end > end_offsets.get(partition, -1) for partition, end in saved.items())
    return None if recreated or place.id_prefix != id_prefix else place


async def end_offsets(servers: str, topic: str) -> dict[int, int]:
    """Return the end offset of every partition.

    Raises:
        SinkUnavailableError: If the broker does not answer.
    """
    async with _reader(servers, topic) as consumer:
        return await _ends(consumer, topic)


async def numbers_after(servers: str, topic: str, place: Place) -> set[int]:
    """Return the numbers of the replay's events that came after ``place`` was saved.

    Raises:
        SinkUnavailableError: If the broker does not answer.
    """
    marker = f'"event_id":"{place.id_prefix}'.encode()
    numbers = set()
    async with _reader(servers, topic) as consumer:
        ends = await _ends(consumer, topic)
        for partition in ends:
            consumer.seek(TopicPartition(topic, partition), place.end_offsets.get(partition, 0))
        while await _behind(consumer, topic, ends):
            fetched = await consumer.getmany(timeout_ms=_READ_WAIT_MS)
            for value in (record.value or b"" for batch in fetched.values() for record in batch):
                _, found, rest = value.partition(marker)
                if found:
                    numbers.add(int(rest.partition(b'"')[0]))
    return numbers


@asynccontextmanager
async def _reader(servers: str, topic: str) -> AsyncIterator[Any]:
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # We report what came of it.
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, enable_auto_commit=False)
    try:
        await consumer.start()
        yield consumer
    except KafkaError as error:
        raise SinkUnavailableError(
            f"cannot read {topic} at {servers}: {short_fact(error)}; start it with: tokentide up"
        ) from error
    finally:
        await stop_consumer(consumer)


async def _ends(consumer: Any, topic: str) -> dict[int, int]:
    partitions = consumer.partitions_for_topic(topic) or ()
    ends = await consumer.end_offsets([TopicPartition(topic, number) for number in partitions])
    return {partition.partition: int(end) for partition, end in ends.items()}


async def _behind(consumer: Any, topic: str, ends: dict[int, int]) -> bool:
    for partition, end in ends.items():
        if await consumer.position(TopicPartition(topic, partition)) < end:
            return True
    return False
