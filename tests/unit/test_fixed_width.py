"""Timestamps and hashes of a whole batch, against the plain reader of one."""

import datetime

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from schemas.usage_event import parse_timestamp
from streams.fixed_width import hash_prefixes, instants

MOMENTS = st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30)).map(
    lambda moment: moment.isoformat(timespec="microseconds")
)
ZONES = st.sampled_from(
    ["Z", "+00:00", "-00:00", "+05:30", "-11:45", "+23:59", "+24:00", "+1:00", ""]
)
TEXTS = st.builds(
    lambda moment, digits, zone: moment[:digits] + zone, MOMENTS, st.integers(17, 26), ZONES
)


@given(st.lists(st.one_of(TEXTS, st.text(max_size=30), st.none()), max_size=20))
def test_what_is_read_equals_the_plain_reader(texts: list[str | None]) -> None:
    """A timestamp that the batch reader takes is the same millisecond that the plain one gives."""
    epoch_ms, readable = instants(pl.Series(texts, dtype=pl.String))
    for text, value, is_readable in zip(texts, epoch_ms, readable, strict=True):
        if is_readable:
            assert text is not None
            assert parse_timestamp(text) == value


def test_common_forms_are_read_at_once() -> None:
    """The forms that gateways send do not fall back to the plain reader."""
    forms = [
        "2026-11-23T21:15:58Z",
        "2026-11-23T21:15:58.001Z",
        "2026-11-23T21:15:58.001234Z",
        "2026-11-23T21:15:58+00:00",
        "2026-11-23T21:15:58.001234+02:00",
    ]
    _, readable = instants(pl.Series(forms))
    assert readable.all()


@given(
    st.lists(st.one_of(st.binary(min_size=32, max_size=32).map(bytes.hex), st.text(), st.none()))
)
def test_hashes_are_their_first_sixteen_digits(texts: list[str | None]) -> None:
    """A hash is the big-endian integer of its first 64 bits; null stays null; the rest is unread."""
    values, readable = hash_prefixes(pl.Series(texts, dtype=pl.String))
    for text, value, is_readable in zip(texts, values.to_pylist(), readable, strict=True):
        if text is None:
            assert is_readable
            assert value is None
        elif is_readable:
            assert value == int(text[:16], 16)
        else:
            assert (
                len(text) != 64
                or not text.isascii()
                or not text.isalnum()
                or set(text.lower()) - set("0123456789abcdef")
            )
