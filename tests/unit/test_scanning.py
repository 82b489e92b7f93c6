"""The pass over JSON lines: what it does not doubt is what the plain readers say.

`test_compiled` runs this file once more as plain Python, where a read beyond the text raises.
"""

import datetime
import itertools
import json
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.usage_event import parse_timestamp
from streams.scanning import HASHES, IDS, Columns, gather, is_utf8, scan
from streams.text_hashes import text_hashes

VALID = {
    "schema_version": 1,
    "event_id": "synthetic:1-1",
    "source": "synthetic",
    "occurred_at": "2026-05-28T20:26:39.123Z",
    "model_raw": "openai/gpt-4o",
    "tokens_prompt": 1200,
    "tokens_completion": 300,
    "streamed": False,
    "user_hash": "ab" * 32,
    "tags": {"team": "search"},
    "status": "ok",
}
MOMENTS = st.datetimes(datetime.datetime(1, 1, 2), datetime.datetime(9999, 12, 30)).map(
    lambda moment: moment.isoformat(timespec="microseconds")
)
ZONES = st.sampled_from(
    ["Z", "+00:00", "-00:00", "+05:30", "-11:45", "+23:59", "+24:00", "+1:00", ""]
)
TIMES = st.builds(
    lambda moment, digits, zone: moment[:digits] + zone, MOMENTS, st.integers(17, 26), ZONES
)
ANY_JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**20), 10**20),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


def scan_lines(*lines: bytes) -> Columns:
    return scan(b"".join(line + b"\n" for line in lines), len(lines))


def with_members(**changes: Any) -> bytes:
    return orjson.dumps({**VALID, **changes})


@given(st.lists(st.one_of(TIMES, st.text(max_size=30)), min_size=1, max_size=10))
def test_an_instant_is_what_the_plain_reader_says(texts: list[str]) -> None:
    """An event time that is not in doubt is the same millisecond."""
    found = scan_lines(*(with_members(occurred_at=text) for text in texts))
    for text, epoch_ms, is_doubtful in zip(texts, found.instants, found.doubt, strict=True):
        if not is_doubtful:
            assert parse_timestamp(text) == epoch_ms


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T21:15:58Z",
        "2026-11-23T21:15:58.001Z",
        "2026-11-23T21:15:58.001234Z",
        "2026-11-23t21:15:58.123456789z",
        "2026-11-23T21:15:58+00:00",
        "2026-11-23T21:15:58.001234+02:00",
        "2024-02-29T00:00:00-23:59",
    ],
)
def test_common_forms_of_time_are_not_in_doubt(text: str) -> None:
    """What gateways send does not fall back to the strict decoder."""
    found = scan_lines(with_members(occurred_at=text))
    assert not found.doubt[0]
    assert found.instants[0] == parse_timestamp(text)


@given(
    st.lists(
        st.one_of(st.binary(min_size=32, max_size=32).map(bytes.hex), st.text(max_size=70)),
        min_size=1,
        max_size=10,
    )
)
def test_a_hash_is_its_first_sixteen_digits(texts: list[str]) -> None:
    """A hash is the big-endian integer of its first 64 bits, in small letters or large ones."""
    texts = [*texts, *(text.upper() for text in texts if text.isascii())]
    found = scan_lines(*(with_members(user_hash=text) for text in texts))
    column = HASHES.index("user_hash")
    for row, text in enumerate(texts):
        is_hash = (
            len(text) == 64 and text.isascii() and not set(text.lower()) - set("0123456789abcdef")
        )
        assert bool(found.doubt[row]) != (is_hash or not text)
        if is_hash:
            assert found.hashes[column, row] == int(text[:16], 16)
        if not text:
            assert not found.has_hash[column, row]


@given(ANY_JSON, st.booleans(), st.booleans())
def test_members_that_are_not_known_may_hold_anything(
    value: Any, ascii_only: bool, spaced: bool
) -> None:
    """Nothing of them is read; only what might be no JSON is left in doubt: escapes, exponents."""
    separators = None if spaced else (",", ":")
    line = json.dumps({"meta": value, **VALID}, ensure_ascii=ascii_only, separators=separators)
    found = scan_lines(line.encode("utf-8", "surrogatepass"))
    is_plain = "\\u" not in line and "e" not in json.dumps(value).replace("true", "").replace(
        "false", ""
    )
    has_long_number = any(len(part) > 18 for part in json.dumps(value).split())
    if is_plain and not has_long_number:
        assert not found.doubt[0]


@given(st.binary(max_size=30))
def test_no_broken_value_is_passed_over(value: bytes) -> None:
    """A line whose unknown member is no JSON is in doubt."""
    line = b'{"meta":' + value + b"," + orjson.dumps(VALID)[1:]
    if b"\n" in value:
        return
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        assert scan_lines(line).doubt[0]


def test_every_beginning_of_a_line_is_in_doubt() -> None:
    """Wherever a record is cut off, at the very end of the text too."""
    line = with_members(request_id="r", meta={"a": [1, -2.5, "x\\n", {}, [], None, True]})
    assert not scan_lines(line).doubt[0]
    for end in range(len(line)):
        assert scan_lines(line, line[:end]).doubt.tolist() == [0, 1]
        assert scan_lines(line[:end]).doubt.tolist() == [1]


def test_fewer_lines_than_said_are_in_doubt() -> None:
    """A count that is wrong reads nothing that is not there."""
    line = with_members() + b"\n"
    assert scan(line, 3).doubt.tolist() == [0, 1, 1]
    assert scan(b"", 1).doubt.tolist() == [1]
    with pytest.raises(ValueError, match="end in a newline"):
        scan(line[:-1], 1)


def test_equal_texts_have_equal_codes() -> None:
    """However many distinct values a column has, each has a code of its own."""
    models = [f"m-{number % 701}" for number in range(2_000)]
    found = scan_lines(*(with_members(model_raw=model) for model in models))
    codes = found.codes[2]
    assert not found.doubt.any()
    assert found.value_count[2] == 701
    assert len({(model, int(code)) for model, code in zip(models, codes, strict=True)}) == 701


@given(st.lists(st.one_of(st.none(), st.text(min_size=1, max_size=12)), max_size=12))
def test_ids_are_gathered_as_they_are(ids: list[str | None]) -> None:
    """Texts one after the other, nulls among them, as Arrow keeps them."""
    lines = [
        json.dumps({**VALID, "request_id": each}, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )
        for each in ids
    ]
    found, column = scan_lines(*lines), IDS.index("request_id")
    joined = b"".join(line + b"\n" for line in lines)
    offsets, data = gather(joined, found.id_start[column], found.id_length[column])
    for row, each in enumerate(ids):
        if not found.doubt[row] and each is not None:
            assert data[offsets[row] : offsets[row + 1]].tobytes().decode() == each


def test_hashes_of_texts_differ_by_text_and_by_seed() -> None:
    """Also of a slice, of nulls and of no text at all."""
    texts = pa.array([f"synthetic:{number}" for number in range(10_000)])
    seeds = np.zeros(len(texts), dtype=np.uint64)
    hashes = text_hashes(texts, seeds)
    assert len(np.unique(hashes)) == len(texts)
    assert len(np.unique(hashes >> np.uint64(40))) > 9_900
    assert (text_hashes(texts[10:20], seeds[:10]) == hashes[10:20]).all()
    assert not np.isin(text_hashes(texts, seeds + np.uint64(1)), hashes).any()
    nothing = text_hashes(pa.array(["", None]), seeds[:2])
    assert nothing[0] == nothing[1]
    assert len(text_hashes(texts[:0], seeds[:0])) == 0


def test_what_is_utf8_is_what_python_reads() -> None:
    """Every pair of bytes, and longer sequences of every lead byte with the edges of what may follow."""
    edges = b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xff"
    sequences = [bytes(pair) for pair in itertools.product(range(256), repeat=2)]
    for length in (2, 3):
        sequences += [
            bytes((lead, *rest))
            for lead in range(0xC0, 0x100)
            for rest in itertools.product(edges, repeat=length)
        ]
    different = [
        text
        for sequence in sequences
        for text in (sequence, b'{"a":"' + sequence + b'"}\n')
        if is_utf8(text) != (text.decode(errors="ignore").encode() == text)
    ]
    assert not different
