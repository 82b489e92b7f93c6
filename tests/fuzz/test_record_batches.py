"""Record batches as they are on the wire: what a broker takes, and what can be read of it."""

from collections.abc import Callable
from random import Random

import pytest
from aiokafka.record.default_records import DefaultRecordBatch

from streams.odd_batches import batch_from, read_values
from tests.fuzz.mutating import Mutator
from tests.fuzz.raw_batches import (
    CODECS,
    LZ4,
    NONE,
    RECORDS_AT,
    SNAPPY,
    damaged,
    odd,
    produce,
    record_batch,
    with_records,
)

VALUES = [b'{"a":%d}' % number for number in range(30)]
TOPICS: tuple[dict[str, str], ...] = (
    {"message_timestamp_type": "LogAppendTime"},
    {},
    {"compression_type": "zstd"},
)
DAMAGED = 10_000


@pytest.mark.parametrize("config", TOPICS, ids=str)
async def test_what_a_broker_takes_can_be_read(
    kafka_bootstrap: str, fresh_topic: Callable[..., str], config: dict[str, str]
) -> None:
    """Wrong checksums, truncated, damaged and miscounted batches of every codec do not reach the log,
    but for damage inside a value that no checksum covers: to Kafka that is another value.

    Not so snappy, which has no checksum and which brokers decompress without looking: its damage may
    reach the log, and stops the worker.
    """
    topic, random = fresh_topic(**config), Random(1)
    for codec in CODECS:
        batches = [*damaged(codec, VALUES).values(), *(scratched(codec, random) for _ in range(60))]
        errors = await produce(kafka_bootstrap, topic, [*batches, record_batch(codec, VALUES)])
        assert errors[-1] == 0
        taken = [batch for batch, error in zip(batches, errors[:-1], strict=True) if error == 0]
        assert len(taken) < len(batches) / 2
        for batch in taken if codec != SNAPPY else []:
            assert len(read_values(batch)) == len(VALUES)


def scratched(codec: int, random: Random) -> bytes:
    """Return a batch with some bytes of its records changed, or cut off; its checksum is right."""
    batch = record_batch(codec, VALUES)
    records = bytearray(batch[RECORDS_AT:])
    for _ in range(random.randint(1, 4)):
        records[random.randrange(len(records))] = random.randrange(256)
    del records[random.choice((len(records), random.randrange(len(records)))) :]
    return with_records(batch, bytes(records))


async def test_a_broker_takes_batches_that_are_odd(
    kafka_bootstrap: str, fresh_topic: Callable[..., str]
) -> None:
    """Those which aiokafka does not read; here they give their values."""
    batches = odd(VALUES)
    topic = fresh_topic(message_timestamp_type="LogAppendTime")
    assert await produce(kafka_bootstrap, topic, list(batches.values())) == [0] * len(batches)
    for name, batch in batches.items():
        with pytest.raises(Exception, match=r".*"):
            list(DefaultRecordBatch(batch))
        assert [each.value for each in read_values(batch)] == VALUES, name


@pytest.mark.parametrize("codec", CODECS)
def test_a_batch_is_read_as_aiokafka_reads_it(codec: int) -> None:
    """Offsets and values, nulls and empty ones too."""
    values = [*Mutator(codec).values(200), None, b""]
    batch = record_batch(codec, values, header=b"name")
    expected = [(each.offset, each.value) for each in DefaultRecordBatch(batch)]
    assert expected == list(enumerate(values))
    assert list(read_values(batch)) == expected


def test_damage_is_told() -> None:
    """Whatever stands in the place of the records: values, or a ValueError; nothing else, and no hang."""
    random = Random(1)
    told = 0
    for _ in range(DAMAGED):
        codec = random.choice(CODECS)
        try:
            read_values(scratched(codec, random))
        except ValueError:
            told += 1
    assert told > DAMAGED // 2


def test_batches_of_a_fetch_are_told_apart() -> None:
    """One after the other, as long as each says it is."""
    first, second = record_batch(LZ4, VALUES), record_batch(NONE, VALUES)
    fetched = first + second + second[:40]
    found, end = batch_from(fetched, 0)
    assert (bytes(found), end) == (first, len(first))
    found, end = batch_from(fetched, end)
    assert (bytes(found), end) == (second, len(first + second))
