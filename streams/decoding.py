"""Usage events from record batches, columns at a time.

A row that is plainly valid is decoded with the whole batch, in one pass (`streams.scanning`). Every
row in doubt (a value out of range, a flag to set, anything that pass does not judge) goes alone to the
strict decoder, `schemas.usage_event.decode`, which accepts it or says why not. So the fast path may be
incomplete, it must only never accept what the strict decoder refuses or reads otherwise; a property
test holds the two equal.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from prometheus_client import Counter

from schemas import usage_event
from schemas.errors import RecordError
from schemas.usage_event import FIELDS, UsageEvent
from streams.columns import Coded, Mask, encode_values, join
from streams.dead_letters import Rejected
from streams.record_batches import RecordBatch
from streams.scanning import (
    BOOLEANS,
    CODED_COLUMNS,
    CODED_TEXTS,
    HASHES,
    IDS,
    INTEGERS,
    Array,
    gather,
    scan,
)

STRICT = Counter("tokentide_records_decoded_singly", "Records given to the strict decoder.")
UNKNOWN_VALUES = Counter(
    "tokentide_unknown_values", "Values of an open list that are not on it.", ["field"]
)

FIELD = {field.name: field for field in FIELDS}
STORED_INTEGERS = tuple(name for name in INTEGERS if name != "schema_version")
for _field in FIELDS:
    if _field.kind == "enum":
        UNKNOWN_VALUES.labels(_field.name)
_VERDICTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Events:
    """Decoded events, a column per field; row order is that of ``offsets``.

    Attributes:
        offsets: Kafka offset.
        occurred_at_ms: Event time, epoch milliseconds.
        text: Texts with few distinct values, ``quality`` (comma-joined flags) among them.
        arrays: Integers, booleans, ids, hashes and tags; null is unknown.
    """

    offsets: Array
    occurred_at_ms: Array
    text: dict[str, Coded]
    arrays: dict[str, pa.Array]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The outcome of a range: every record is in one of the two."""

    events: Events
    rejected: tuple[Rejected, ...]


class Lines:
    """The values of a range as lines, each with a newline at its end, and where each record stood."""

    def __init__(self, record_batches: Sequence[RecordBatch]) -> None:
        batches = [each for each in record_batches if each.count]
        self.count = sum(each.count for each in batches)
        assert all(each.joined for each in batches), "values that were let go of"
        self.joined = b"\n".join([*(each.joined for each in batches), b""])
        starts = np.cumsum([0, *(each.count for each in batches)])
        self.offsets: Array = np.concatenate(
            [np.array([], dtype=np.int64)]
            + [
                np.arange(each.first_offset, each.first_offset + each.count)
                if each.offsets is None
                else np.array(each.offsets)
                for each in batches
            ]
        )
        self.append_time_ms: Array = np.repeat(
            np.array([each.append_time_ms for each in batches], dtype=np.int64),
            [each.count for each in batches],
        )
        self.irregular: dict[int, bytes | None] = {
            int(start) + position: value
            for start, each in zip(starts, batches, strict=False)
            for position, value in each.irregular.items()
        }


def decode(record_batches: Sequence[RecordBatch]) -> Decoded:
    """Decode and validate a range. The outcome depends on the records alone."""
    lines = Lines(record_batches)
    scanned = _Scanned(lines)
    doubt = scanned.doubt()
    fast, doubtful = scanned.events(~doubt), np.flatnonzero(doubt)
    events: list[tuple[int, UsageEvent]] = []
    rejected: list[Rejected] = []
    STRICT.inc(len(doubtful))
    for offset, append_time_ms, value in zip(
        lines.offsets[doubtful].tolist(),
        lines.append_time_ms[doubtful].tolist(),
        scanned.values(doubtful),
        strict=True,
    ):
        try:
            event = usage_event.decode(value, append_time_ms=append_time_ms)
        except RecordError as error:
            rejected.append(Rejected(offset, append_time_ms, value, error.reason, error.field))
        else:
            events.append((offset, event))
    if events:
        fast = _joined([fast, events_of(events)])
    _count_unknown_values(fast.text["quality"])
    return Decoded(fast, tuple(rejected))


def join_decoded(parts: Sequence[Decoded]) -> Decoded:
    """Return the outcome of a range of those of its pieces, at least one."""
    if len(parts) == 1:
        return parts[0]
    rejected = tuple(chain.from_iterable(each.rejected for each in parts))
    return Decoded(_joined([each.events for each in parts]), rejected)


def _joined(parts: Sequence[Events]) -> Events:
    first = parts[0]
    return Events(
        np.concatenate([each.offsets for each in parts]),
        np.concatenate([each.occurred_at_ms for each in parts]),
        {name: join([each.text[name] for each in parts]) for name in first.text},
        {name: pa.concat_arrays([each.arrays[name] for each in parts]) for name in first.arrays},
    )


def _count_unknown_values(quality: Coded) -> None:
    counts = np.bincount(quality.codes[quality.codes >= 0], minlength=len(quality.values))
    for flags, count in zip(quality.values, counts, strict=True):
        for flag in (flags or "").split(","):
            name = flag.removeprefix("unknown_")
            if name != flag and count:
                UNKNOWN_VALUES.labels(name).inc(int(count))


class _Scanned:
    """What one pass found: which rows are in doubt, and the others' columns."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._columns = scan(lines.joined, lines.count)
        self._numbers = dict(zip(INTEGERS, self._columns.numbers, strict=True))
        self._has_number = {
            name: row.view(np.bool_)
            for name, row in zip(INTEGERS, self._columns.has_number, strict=True)
        }
        self._booleans = dict(zip(BOOLEANS, self._columns.booleans, strict=True))
        self._text: dict[str, Coded] = {}
        self._flags: list[tuple[Coded, tuple[str | None, ...]]] = []

    def values(self, positions: Array) -> Iterator[bytes | None]:
        """Yield records' values as the producer sent them."""
        starts = self._columns.line_start[positions].tolist()
        ends = (self._columns.line_start[positions + 1] - 1).tolist()
        joined, irregular = self._lines.joined, self._lines.irregular
        for position, start, end in zip(positions.tolist(), starts, ends, strict=True):
            yield irregular[position] if position in irregular else joined[start:end]

    def doubt(self) -> Mask:
        """Return the rows that only the strict decoder may judge."""
        doubt: Mask = self._columns.doubt.view(np.bool_).copy()
        doubt[list(self._lines.irregular)] = True
        occurred_at_ms = self._columns.instants
        doubt |= occurred_at_ms < usage_event.OCCURRED_AT_MIN_MS
        doubt |= occurred_at_ms > self._lines.append_time_ms + usage_event.AHEAD_MS_MAX
        for name in CODED_COLUMNS:
            doubt |= self._doubtful_text(name)
        return doubt | self._doubtful_numbers()

    def _doubtful_numbers(self) -> Mask:
        """Return the rows whose numbers contradict each other; one that is not there is 0."""
        number, has = self._numbers, self._has_number
        prompt, completion = number["tokens_prompt"], number["tokens_completion"]
        cached = number["tokens_cached"] + number["tokens_cache_write"]
        latest_ms = number["latency_ms"] + usage_event.TTFT_OVER_LATENCY_MS_MAX
        doubt: Mask = has["tokens_reasoning"] & (
            (number["tokens_reasoning"] > completion) | ~has["tokens_completion"]
        )
        doubt |= cached > prompt
        doubt |= has["ttft_ms"] & (
            (has["latency_ms"] & (number["ttft_ms"] > latest_ms))
            | (self._booleans["streamed"] == 0)
        )
        status = self._text["status"]
        is_ok = status.pick([value == "ok" for value in status.values], False, np.bool_)
        doubt |= is_ok & ~(has["tokens_prompt"] & has["tokens_completion"])
        return doubt

    def _doubtful_text(self, name: str) -> Mask:
        """Judge each distinct value once, as the strict decoder does."""
        raw = self._coded(name)
        verdicts = [_verdict(name, value) for value in raw.values]
        text = raw.replace([verdict.value for verdict in verdicts])
        default = FIELD[name].default
        self._text[name] = text.fill(default) if isinstance(default, str) else text
        flags = tuple(verdict.flag for verdict in verdicts)
        if any(flags):
            self._flags.append((raw, flags))
        refused = [verdict.is_refused for verdict in verdicts]
        return raw.pick(refused, FIELD[name].required, np.bool_)

    def _coded(self, name: str) -> Coded:
        """Return a column of JSON texts, as they stand in the lines."""
        columns, column = self._columns, CODED_COLUMNS.index(name)
        count = int(columns.value_count[column])
        starts = columns.value_start[column, :count].tolist()
        lengths = columns.value_length[column, :count].tolist()
        joined = self._lines.joined
        # ISO 8859-1 gives each byte a character of its own, so that equal texts are equal bytes.
        values = (
            joined[start : start + length].decode("latin-1")
            for start, length in zip(starts, lengths, strict=True)
        )
        return Coded(columns.codes[column], tuple(values))

    def events(self, keep: Mask) -> Events:
        """Return the columns of the rows that are kept."""
        columns, every = self._columns, bool(keep.all())

        def kept(column: Array) -> Array:
            return column if every else column[keep]

        arrays: dict[str, pa.Array] = {
            name: _numbers(kept(self._numbers[name]), kept(self._has_number[name]))
            for name in STORED_INTEGERS
        }
        arrays["attempt"] = arrays["attempt"].fill_null(0)
        for name, flags in self._booleans.items():
            buffers = [_bits(kept(flags) >= 0), _packed(kept(flags) == 1)]
            arrays[name] = pa.Array.from_buffers(pa.bool_(), len(kept(flags)), buffers)
        for name, prefixes, has in zip(HASHES, columns.hashes, columns.has_hash, strict=True):
            arrays[name] = _numbers(kept(prefixes), kept(has) != 0)
        for name, start, length in zip(IDS, columns.id_start, columns.id_length, strict=True):
            arrays[name] = _texts(self._lines.joined, kept(start), kept(length))
        text = {name: self._text[name].take(keep) for name in CODED_TEXTS}
        text["quality"] = self._quality().take(keep)
        arrays["tags"] = self._text["tags"].take(keep).to_arrow("").cast(pa.string())
        return Events(kept(self._lines.offsets), kept(columns.instants), text, arrays)

    def _quality(self) -> Coded:
        """Return the flags of each row, sorted and comma-joined; null where there are none."""
        late = self._columns.instants < self._lines.append_time_ms - usage_event.LATE_MS
        quality = Coded(np.where(late, 0, -1).astype(np.int32), ("late",))
        for raw, flags in self._flags:
            quality = _with_flags(quality, raw, flags)
        return quality


def _texts(joined: bytes, start: Array, length: Array) -> pa.Array:
    """Return texts of lines, null where the length is negative."""
    offsets, data = gather(joined, start, length)
    buffers = [_bits(length >= 0), pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.string(), len(start), buffers)


def _numbers(values: Array, has_value: Mask) -> pa.Array:
    """Return numbers without a copy of them, null where there is no value."""
    values = np.ascontiguousarray(values)
    buffers = [_bits(has_value), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), buffers)


def _bits(is_valid: Mask) -> pa.Buffer | None:
    """Return what is not null, as Arrow has it: nothing if that is all."""
    return None if is_valid.all() else _packed(is_valid)


def _packed(flags: Mask) -> pa.Buffer:
    return pa.py_buffer(np.packbits(flags, bitorder="little"))


def _with_flags(quality: Coded, raw: Coded, flags: Sequence[str | None]) -> Coded:
    added = raw.replace(flags)
    width = len(added.values) + 1
    pairs = (quality.codes + 1) * width + (added.codes + 1)
    distinct, codes = np.unique(pairs, return_inverse=True)
    values: list[str | None] = []
    for pair in distinct.tolist():
        old, new = divmod(pair, width)
        names = (quality.values[old - 1] or "").split(",") if old else []
        names += [added.values[new - 1] or ""] if new else []
        values.append(",".join(sorted(names)) or None)
    joined = Coded(codes.astype(np.int32), tuple(values))
    return joined.replace(joined.values)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What is stored for a JSON text; ``is_refused``: the strict decoder must say what it is."""

    value: str | None
    flag: str | None = None
    is_refused: bool = False


_verdicts: dict[tuple[str, str], _Verdict] = {}


def _verdict(name: str, raw: str | None) -> _Verdict:
    """Return what the strict decoder makes of a JSON text, remembered."""
    assert raw is not None
    found = _verdicts.get((name, raw))
    if found is None:
        if len(_verdicts) >= _VERDICTS_MAX:
            _verdicts.clear()
        found = _verdicts[name, raw] = _judge(name, raw)
    return found


def _judge(name: str, raw: str) -> _Verdict:
    field, is_tags = FIELD[name], name == "tags"
    json_text = raw.encode("latin-1")
    try:
        value = orjson.loads(json_text if is_tags else b'"' + json_text + b'"')
        text = usage_event.read(field, value)
    except (orjson.JSONDecodeError, RecordError):
        return _Verdict(None, is_refused=True)
    if is_tags:
        # The first of equal names counts, and orjson has given the last.
        members = json.loads(json_text, object_pairs_hook=list)
        return _Verdict(text, is_refused=len(members) > len(value))
    is_unknown = field.kind == "enum" and usage_event.is_unknown(field, {name: value})
    return _Verdict(text, f"unknown_{name}" if is_unknown else None)


def events_of(events: Sequence[tuple[int, UsageEvent]]) -> Events:
    """Return the columns of events that were decoded singly."""
    offsets = np.array([offset for offset, _ in events], dtype=np.int64)

    def column(name: str) -> list[Any]:
        return [getattr(event, name) for _, event in events]

    arrays: dict[str, pa.Array] = {
        name: pa.array(column(name), pa.int64()) for name in STORED_INTEGERS
    }
    arrays |= {name: pa.array(column(name), pa.bool_()) for name in BOOLEANS}
    arrays |= {name: pa.array(column(name), pa.string()) for name in (*IDS, "tags")}
    arrays |= {name: pa.array(column(name), pa.uint64()) for name in HASHES}
    text = {name: encode_values(column(name)) for name in CODED_TEXTS}
    text["quality"] = encode_values([",".join(event.quality) or None for _, event in events])
    occurred_at_ms = np.array(column("occurred_at_ms"), dtype=np.int64)
    return Events(offsets, occurred_at_ms, text, arrays)
