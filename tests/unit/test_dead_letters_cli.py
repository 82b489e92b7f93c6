"""Dead letters for people: what is shown, chosen, cut into chunks and found again."""

import unicodedata
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deploy.cli.dead_letters_listing import JsonArray, Listed, Newest
from deploy.cli.dead_letters_text import (
    Instant,
    OffsetRange,
    PositionType,
    escaped,
    time_text,
    value_text,
)
from deploy.dead_letters_reader import DeadLetter, Filter, Origin, Position, origin_of, parse
from deploy.redrive import CHUNK_BYTES_MAX, CHUNK_RECORDS_MAX, chunks, headers_of, key_of, match
from deploy.redrive_ledger import Entry

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOW_MS = 1_795_521_600_000


def letter(
    offset: int = 17, partition: int = 0, value: bytes | None = b"{}", **changes: Any
) -> DeadLetter:
    found: dict[str, Any] = {
        "position": Position(partition, offset + 100),
        "refused_at_ms": NOW_MS,
        "key": None,
        "value": value,
        "headers": (),
        "origin": Origin("usage", Position(partition, offset), NOW_MS - 1),
        "stage": "decode",
        "reason": "invalid_json",
        "field": "",
    }
    return DeadLetter(**{**found, **changes})


@given(value=st.binary(max_size=400), chars_max=st.integers(2, 80))
@example(value="‮ evil \u2028 \x1b[2J".encode(), chars_max=80)
@example(value=b"\xff\x00" * 50, chars_max=7)
def test_a_value_is_one_printable_line(value: bytes, chars_max: int) -> None:
    """Whatever it holds: no control, direction or line character, and never longer than asked."""
    text = escaped(value, chars_max)
    assert len(text) <= chars_max
    assert not any(unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs") for char in text)


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    """A value that fits and has nothing odd is not changed."""
    assert escaped(text.encode(), 60) == text


@pytest.mark.parametrize(
    ("value", "chars_max", "shown"),
    [
        (None, 10, "(null)"),
        (b"", 10, "(empty)"),
        (b"\x00\xff\x1b{", 20, r"\x00\xff\x1b{"),
        ("grün €".encode(), 20, "grün €"),
        ("a\u202eb\u200b".encode(), 20, r"a\u202eb\u200b"),
        ("\U000e0001".encode(), 20, r"\U000e0001"),
        (b"x" * 10, 10, "x" * 10),
        (b"x" * 11, 10, "x" * 9 + "…"),
        ("€".encode() * 11, 10, "€" * 9 + "…"),
        (b"\xff" * 1000, 10, r"\xff\xff\…"),
    ],
)
def test_odd_values(value: bytes | None, chars_max: int, shown: str) -> None:
    """Null and empty are told apart, bytes and hidden characters have their numbers."""
    assert value_text(value, chars_max) == shown


@pytest.mark.parametrize(
    ("text", "ago_ms"),
    [
        ("90s", 90_000),
        ("2h", 7_200_000),
        ("1.5d", 129_600_000),
        ("2026-11-24T11:00Z", 3_600_000),
        ("2026-11-24T11:00", 3_600_000),
        ("2026-11-24T13:00:00+02:00", 3_600_000),
        ("2026-11-24", 43_200_000),
    ],
)
def test_times(text: str, ago_ms: int) -> None:
    """An age counts back from now; a time without a zone is UTC."""
    assert Instant(lambda: NOW).convert(text, None, None) == NOW_MS - ago_ms


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Instant(), "yesterday"),
        (Instant(), "2y"),
        (Instant(), "9999999999999w"),
        (OffsetRange(), "-3"),
        (OffsetRange(), "9-3"),
        (OffsetRange(), "x"),
        (PositionType(), "17"),
        (PositionType(), "0:-1"),
    ],
)
def test_what_is_no_time_nor_place_is_refused(kind: click.ParamType, text: str) -> None:
    """Wrong usage, with the text in the message."""
    with pytest.raises(click.BadParameter, match=text):
        kind.convert(text, None, None)


def test_times_are_shown_in_utc_and_never_fail() -> None:
    """Also a timestamp that no calendar has."""
    assert time_text(NOW_MS + 7) == "2026-11-24T12:00:00.007Z"
    assert time_text(1 << 62) == str(1 << 62)


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Filter(), True),
        (Filter(reasons=frozenset({"invalid_json", "too_long"})), True),
        (Filter(reasons=frozenset({"too_long"})), False),
        (Filter(fields=frozenset({""})), True),
        (Filter(fields=frozenset({"event_id"})), False),
        (Filter(stages=frozenset({"insert"})), False),
        (Filter(since_ms=NOW_MS), True),
        (Filter(since_ms=NOW_MS + 1), False),
        (Filter(until_ms=NOW_MS), False),
        (Filter(until_ms=NOW_MS + 1), True),
        (Filter(origin_offsets=((17, 17),)), True),
        (Filter(origin_offsets=((1, 16), (18, None))), False),
        (Filter(origin_offsets=((3, None),)), True),
    ],
)
def test_filters(wanted: Filter, takes: bool) -> None:
    """Each alone; the bounds of time are half-open, those of offsets inclusive."""
    assert wanted.takes(letter()) is takes


def test_offsets_choose_none_without_an_origin() -> None:
    """A record whose headers say nothing has no origin offset."""
    assert not Filter(origin_offsets=((0, None),)).takes(letter(origin=None))


@pytest.mark.parametrize(
    "change",
    [
        {"origin_topic": b""},
        {"origin_partition": b"x"},
        {"origin_partition": b"65536"},
        {"origin_offset": b"-1"},
        {"origin_offset": None},
        {"origin_timestamp_ms": b"99999999999999999"},
    ],
)
def test_headers_that_are_no_origin(change: dict[str, bytes | None]) -> None:
    """Whoever wrote them: no origin rather than a failure, or one the ledger would not find."""
    good: dict[str, bytes | None] = {
        "origin_topic": b"usage",
        "origin_partition": b"1",
        "origin_offset": b"5",
        "origin_timestamp_ms": b"7",
    }
    assert origin_of(good) == Origin("usage", Position(1, 5), 7)
    assert origin_of({**good, **change}) is None
    assert origin_of({}) is None


def record(offset: int, headers: list[tuple[str, bytes]]) -> Any:
    return SimpleNamespace(
        partition=0, offset=offset, timestamp=NOW_MS, key=None, value=b"", headers=headers
    )


def test_a_foreign_record_is_a_dead_letter_without_origin() -> None:
    """Headers may be missing, null or no text."""
    found = parse(record(3, [("reason", b"\xff"), ("field", None)]))  # type: ignore[list-item]
    assert (found.origin, found.reason, found.field, found.stage) == (None, "�", "", "")


VALUES = [b"x" * size for size in (1, 1000, CHUNK_BYTES_MAX // 3)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(range(3))), max_size=40))
def test_chunks_keep_order_and_limits(sizes: list[tuple[int, int]]) -> None:
    """One target partition each, bounded in bytes, nothing lost and nothing moved."""
    letters = [letter(n, partition, VALUES[which]) for n, (partition, which) in enumerate(sizes)]
    found = list(chunks(letters))
    assert [each for chunk in found for each in chunk] == letters
    for chunk in found:
        assert len({each.origin.position.partition for each in chunk if each.origin}) == 1
        assert len(chunk) == 1 or sum(len(x.value or b"") for x in chunk) <= CHUNK_BYTES_MAX


def test_chunks_are_bounded_in_records() -> None:
    """Small values too."""
    sizes = [len(chunk) for chunk in chunks(letter(n) for n in range(2 * CHUNK_RECORDS_MAX + 1))]
    assert sizes == [CHUNK_RECORDS_MAX, CHUNK_RECORDS_MAX, 1]


def entry_of(sent: DeadLetter) -> Entry:
    assert sent.origin is not None
    return Entry("a", sent.position, sent.origin, "", "", 0, None, False, 0)


def test_a_record_is_found_again_by_its_headers() -> None:
    """Not by the same origin of another dead letter, nor by a producer's own origin headers."""
    wanted, other = letter(17), letter(17, position=Position(0, 5))
    plain = headers_of(wanted)[1:]
    records = [record(1, []), record(2, plain), record(3, headers_of(other))]
    assert match([entry_of(wanted)], records) == {}
    assert match([entry_of(wanted)], [*records, record(4, headers_of(wanted))]) == {
        wanted.origin: 4
    }


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b'{"session_hash":"s","user_hash":"u","event_id":"e"}', b"s"),
        (b'{"event_id":"e"}', b"e"),
        (b"[1]", None),
        (b"\xff", None),
        (None, b""),
    ],
)
def test_keys(value: bytes | None, key: bytes | None) -> None:
    """As producers are told to choose them; a null value needs one to be sent at all."""
    assert key_of(value) == key


@given(times=st.lists(st.integers(0, 5), max_size=30), limit=st.integers(0, 8))
def test_the_newest_are_kept(times: list[int], limit: int) -> None:
    """In order of time, then place; 0 keeps all."""
    kept = Newest(limit)
    listed = [Listed(letter(n, refused_at_ms=t), "none", None, 0, "") for n, t in enumerate(times)]
    for each in listed:
        kept.add(each)
    ordered = sorted(listed, key=lambda each: each.order)
    assert kept.oldest_first() == (ordered[-limit:] if limit else ordered)


def test_a_json_array_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    """None, one or several members are one valid document."""
    for count in range(3):
        array = JsonArray()
        for number in range(count):
            array.add({"n": number})
        array.close()
    assert capsys.readouterr().out == '[]\n[\n{"n":0}\n]\n[\n{"n":0},\n{"n":1}\n]\n'
