"""Values split from records by compiled loops, against aiokafka's reader of one record after the other.

`test_compiled` runs this file once more as plain Python, where a read beyond the records raises.
"""

from random import Random

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from streams.splitting import NO_LINE, lines_of
from tests.fuzz.mutating import Mutator
from tests.fuzz.raw_batches import NONE, RECORDS_AT, record_batch

LINE_BYTES_MAX = 300
VALUES = st.one_of(
    st.binary(min_size=1, max_size=40).map(lambda value: value.replace(b"\n", b"-")),
    st.sampled_from([None, b"", b"two\nlines", b"x" * LINE_BYTES_MAX, b"x" * (LINE_BYTES_MAX + 1)]),
)


def records_of(values: list[bytes | None], header: bytes = b"") -> bytes:
    return record_batch(NONE, values, header=header)[RECORDS_AT:]


def split(values: list[bytes | None]) -> tuple[bytes, dict[int, bytes | None]]:
    """Say plainly what `lines_of` must say."""
    irregular = {
        at: value
        for at, value in enumerate(values)
        if value is None or not 0 < len(value) <= LINE_BYTES_MAX or b"\n" in value
    }
    lines = [NO_LINE if at in irregular else value or b"" for at, value in enumerate(values)]
    return b"\n".join(lines), irregular


@given(st.lists(VALUES, max_size=8), st.sampled_from([b"", b"name", b"\xff\xfe"]))
def test_values_are_joined_and_what_is_no_line_is_kept_aside(
    values: list[bytes | None], header: bytes
) -> None:
    """A null, an empty value, a long one or one with a newline costs its neighbours nothing."""
    found = lines_of(records_of(values, header), len(values), LINE_BYTES_MAX)
    assert found == (split(values) if values else None)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_is_what_aiokafka_reads(seed: int) -> None:
    """For values of every kind, one batch for each."""
    for value in Mutator(seed).values(200):
        batch = record_batch(NONE, [value, b"after"])
        read = [each.value for each in DefaultRecordBatch(batch)]
        assert lines_of(batch[RECORDS_AT:], 2, LINE_BYTES_MAX) == split(read)


def test_damage_is_left_to_the_long_way() -> None:
    """Whatever stands in the place of the records, nothing is read that is not there."""
    random, records = Random(1), records_of([b'{"a":%d}' % number for number in range(30)])
    read = 0
    for _ in range(3_000):
        damaged = bytearray(records)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        del damaged[random.choice((len(damaged), random.randrange(len(damaged)))) :]
        read += lines_of(bytes(damaged), 30, LINE_BYTES_MAX) is not None
    assert 0 < read < 1_500
    for count in (-1, 0, 29, 31):
        try:
            assert lines_of(records, count, LINE_BYTES_MAX) is None
        except ValueError:
            assert count < 0
