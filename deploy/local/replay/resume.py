"""Goes on with a replay where an earlier process stopped or was killed, sending nothing twice.

After every block that Kafka has acknowledged, the place and the end of the topic are written to a
file. What a killed process sent after its last entry is found by reading the topic from that end on.
"""

from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.simulator.truth import write_json
from schemas.errors import SinkUnavailableError

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


async def numbers_after(bootstrap_servers: str, topic: str, place: Place) -> set[int]:
    """Return the numbers of the replay's events that came after ``place`` was saved.

    Raises:
        SinkUnavailableError: If the broker does not answer.
    """
    marker = f'"event_id":"{place.id_prefix}'.encode()
    numbers = set()
    async for value in _values_after(bootstrap_servers, topic, place.end_offsets):
        _, found, rest = value.partition(marker)
        if found:
            numbers.add(int(rest.partition(b'"')[0]))
    return numbers


async def _values_after(
    bootstrap_servers: str, topic: str, offsets: dict[int, int]
) -> AsyncIterator[bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, enable_auto_commit=False)
    try:
        await consumer.start()
        starts = {TopicPartition(topic, partition): at for partition, at in offsets.items()}
        ends = await consumer.end_offsets(list(starts))
        open_ = {tp for tp, start in starts.items() if start < ends[tp]}
        consumer.assign(list(open_))
        for tp in open_:
            consumer.seek(tp, starts[tp])
        while open_:
            for tp, records in (await consumer.getmany(timeout_ms=_READ_WAIT_MS)).items():
                for record in records:
                    yield record.value or b""
                if await consumer.position(tp) >= ends[tp]:
                    open_.discard(tp)
    except KafkaError as error:
        raise SinkUnavailableError(f"cannot read {topic}: {error}; is the stack up?") from error
    finally:
        await consumer.stop()
