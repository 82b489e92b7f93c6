"""Values split from records by compiled loops, against aiokafka's reader of one record after the other.

`test_compiled` runs this file once more as plain Python, where a read beyond the records raises.
"""

from random import Random

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from streams.splitting import plain_lines
from tests.fuzz.mutating import Mutator
from tests.fuzz.raw_batches import NONE, RECORDS_AT, record_batch

LINE_BYTES_MAX = 300
VALUES = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda value: value.replace(b"\n", b"-")),
    st.sampled_from([None, b"", b"two\nlines", b"x" * LINE_BYTES_MAX, b"x" * (LINE_BYTES_MAX + 1)]),
)


def records_of(values: list[bytes | None], header: bytes = b"") -> bytes:
    return record_batch(NONE, values, header=header)[RECORDS_AT:]


def is_plain(value: bytes | None) -> bool:
    return value is not None and 0 < len(value) <= LINE_BYTES_MAX and b"\n" not in value


@given(st.lists(VALUES, max_size=8), st.sampled_from([b"", b"name", b"\xff\xfe"]))
def test_plain_values_are_joined_and_no_others(values: list[bytes | None], header: bytes) -> None:
    """A null, an empty value, a long one or one with a newline leaves the batch to the long way."""
    found = plain_lines(records_of(values, header), len(values), LINE_BYTES_MAX)
    expected = None
    if values and all(is_plain(value) for value in values):
        expected = b"\n".join(value or b"" for value in values)
    assert found == expected


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_aiokafka_reads(seed: int) -> None:
    """For values of every kind, one batch for each."""
    for value in Mutator(seed).values(200):
        batch = record_batch(NONE, [value, b"after"])
        if is_plain(value):
            read = [each.value for each in DefaultRecordBatch(batch)]
            assert plain_lines(batch[RECORDS_AT:], 2, LINE_BYTES_MAX) == b"\n".join(read)


def test_damage_is_left_to_the_long_way() -> None:
    """Whatever stands in the place of the records, nothing is read that is not there."""
    random, records = Random(1), records_of([b'{"a":%d}' % number for number in range(30)])
    read = 0
    for _ in range(3_000):
        damaged = bytearray(records)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        del damaged[random.choice((len(damaged), random.randrange(len(damaged)))) :]
        read += plain_lines(bytes(damaged), 30, LINE_BYTES_MAX) is not None
    assert 0 < read < 1_500
    for count in (-1, 0, 29, 31):
        try:
            assert plain_lines(records, count, LINE_BYTES_MAX) is None
        except ValueError:
            assert count < 0
