"""Nasty records on a real broker, stored by a real worker into a real engine."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from deploy.kafka_admin import kafka_answers
from deploy.local.processes import Child, wait_until
from schemas.topics import DEAD_LETTER_TOPIC, USAGE_TOPIC
from tests.conftest import environment, free_port, running, tokentide
from tests.fuzz.mutating import Mutator
from tests.integration.test_worker import Parts, working
from tests.rollups import OF_ALL

INPUTS = int(os.environ.get("FUZZ_INPUTS", "20000"))
"""Long form: ``FUZZ_INPUTS=1000000 pytest tests/fuzz/test_worker.py``."""
SEED = 20261124
PARTITIONS = 4
CODECS = ("lz4", "zstd", "gzip", "snappy", None)
STORE_SECONDS_MAX = 60 + INPUTS / 2000
Place = tuple[int, int]


class FuzzParts(Parts):
    """A worker that lets everything refused pass to the dead letters, in ranges of many sizes."""

    def worker(self) -> Child:
        settings = {**self.settings(), "bad_records_ratio_max": 1, "batch_rows_max": 3000}
        log = self.directory / "worker.out"
        return Child("worker", tokentide("worker"), log, environment(**settings))


def values() -> list[bytes | None]:
    """Return nasty values, and some about as long as a broker takes, or longer before compression."""
    nasty = [each for each in Mutator(SEED).values(INPUTS) if len(each or b"") < 900_000]
    long: dict[str | None, list[bytes]] = {
        None: [Random(SEED).randbytes(1_048_450)],
        "lz4": [b"[" * (1 << 20), b"[" * (1 << 20 | 1), b" " * 5_000_000],
        "zstd": [b'{"event_id":"' + b"x" * 3_000_000 + b'"}'],
    }
    for codec, some in long.items():
        for number, value in enumerate(some):
            nasty[number * len(CODECS) + CODECS.index(codec)] = value
    return nasty


async def produce(bootstrap: str, sent: list[bytes | None]) -> dict[Place, bytes | None]:
    """Send the values under all codecs; return where each stands."""
    random = Random(SEED)
    places: dict[Place, bytes | None] = {}
    for codec, part in zip(
        CODECS, (sent[i :: len(CODECS)] for i in range(len(CODECS))), strict=True
    ):
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            compression_type=codec,
            linger_ms=5,
            max_batch_size=1 << 18,
            max_request_size=16 << 20,
        )
        await producer.start()
        futures = [
            (
                await producer.send(
                    USAGE_TOPIC, value, key=b"k", partition=random.randrange(PARTITIONS)
                ),
                value,
            )
            for value in part
        ]
        for future, value in futures:
            metadata = await future
            places[metadata.partition, metadata.offset] = value
        await producer.stop()
    return places


async def read_dead_letters(bootstrap: str) -> list[tuple[Place, bytes | None, str]]:
    """Return origin, value and reason of every dead letter."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        targets = [TopicPartition(DEAD_LETTER_TOPIC, each) for each in range(PARTITIONS)]
        consumer.assign(targets)
        await consumer.seek_to_beginning(*targets)
        ends = await consumer.end_offsets(targets)
        found = []
        for target, end in ends.items():
            while await consumer.position(target) < end:
                for record in (await consumer.getmany(target, timeout_ms=1000)).get(target, []):
                    names = {name: value.decode() for name, value in record.headers}
                    place = int(names["origin_partition"]), int(names["origin_offset"])
                    found.append((place, record.value, names["reason"]))
        return found
    finally:
        await consumer.stop()


@pytest.mark.timeout(STORE_SECONDS_MAX + 240)
def test_the_worker_takes_whatever_comes_and_the_books_balance(tmp_path: Path) -> None:
    """Rows, records sent again and dead letters are all records, each once; refused values are kept
    byte for byte; the worker does not stop."""
    parts = FuzzParts(tmp_path, free_port(), free_port(), free_port())
    kafka = tokentide("kafka", "--data-dir", str(tmp_path), "--port", str(parts.kafka_port))
    with (
        running("kafka", kafka, tmp_path / "kafka.out", lambda: kafka_answers(parts.kafka)),
        working(parts) as (worker, _),
    ):
        sent = asyncio.run(produce(parts.kafka, values()))
        assert wait_until(lambda: is_over(parts, worker, len(sent)), STORE_SECONDS_MAX)
        assert worker.exit_code is None, (tmp_path / "worker.out").read_text()[-2000:]
        check(parts, sent)
        assert worker.exit_code is None


def is_over(parts: Parts, worker: Child, records: int) -> bool:
    """Say whether every record is accounted for, or the worker has stopped."""
    try:
        names = ("stored", "duplicate", "dead_lettered")
        return sum(parts.metric(f"tokentide_records_{name}_total") for name in names) >= records
    except OSError:
        return worker.exit_code is not None


def check(parts: Parts, sent: dict[Place, bytes | None]) -> None:
    letters = asyncio.run(read_dead_letters(parts.kafka))
    rows = parts.query("SELECT kafka_partition, kafka_offset FROM usage_events")
    aside = parts.query("SELECT kafka_partition, kafka_offset FROM usage_duplicates")
    places = [*map(tuple, rows), *map(tuple, aside), *(place for place, _, _ in letters)]
    assert Counter(places) == dict.fromkeys(sent, 1)
    for place, value, _ in letters:
        assert value == sent[place], place
    assert len({reason for _, _, reason in letters}) >= 10
    for table in OF_ALL:
        assert parts.query(f"SELECT sum(requests) FROM {table}")[0][0] == len(rows), table
