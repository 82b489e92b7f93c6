"""Usage events from record batches, columns at a time.

A row that is plainly valid is decoded with the whole batch. Every row in doubt (a value out of
range, a flag to set, an escape, anything a fast JSON reader takes differently) goes alone to the
strict decoder, `schemas.usage_event.decode`, which accepts it or says why not. So the fast path may
be incomplete, it must only never accept what the strict decoder refuses or reads otherwise; a
property test holds the two equal.

Traps of `polars.read_ndjson` 2.1 that are handled here: one bad line fails the call without saying
which; a text field takes a number or an object as text; a lone surrogate becomes NUL; an empty line
gives no row.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from prometheus_client import Counter

from schemas import usage_event
from schemas.errors import RecordError
from schemas.usage_event import FIELDS, Kind, UsageEvent
from streams.columns import Coded, Mask, encode, encode_values, join
from streams.dead_letters import Rejected
from streams.fixed_width import Int64s, hash_prefixes, instants
from streams.record_batches import RecordBatch

STRICT = Counter("tokentide_records_decoded_singly", "Records given to the strict decoder.")
UNKNOWN_VALUES = Counter(
    "tokentide_unknown_values", "Values of an open list that are not on it.", ["field"]
)

FIELD = {field.name: field for field in FIELDS}
IDS = ("event_id", "request_id")
HASHES = ("user_hash", "session_hash")
CODED = tuple(f.name for f in FIELDS if f.kind in ("text", "enum") and f.name not in IDS)
INTEGERS = tuple(f for f in FIELDS if f.kind == "integer")
STORED_INTEGERS = tuple(f.name for f in INTEGERS if f.name != "schema_version")
BOOLEANS = tuple(f.name for f in FIELDS if f.kind == "boolean")
for _field in FIELDS:
    if _field.kind == "enum":
        UNKNOWN_VALUES.labels(_field.name)

_POLARS_TYPE: dict[Kind, pl.DataType] = {"integer": pl.Int64(), "boolean": pl.Boolean()}
_SCHEMA = {f.name: _POLARS_TYPE.get(f.kind, pl.String()) for f in FIELDS}
_INT64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_PYTHON_TYPE: dict[Kind, Any] = {
    "integer": _INT64,
    "boolean": bool,
    "tags": dict[str, str],
}
_TYPED = msgspec.json.Decoder(
    msgspec.defstruct(
        "Typed", [(f.name, _PYTHON_TYPE.get(f.kind, str) | None, None) for f in FIELDS]
    )
)
_NO_JSON_TEXT = r"^(?:-?\d[\d.eE+-]*|true|false|[\[{](?s:.*))$"
"""What the text of a JSON value that was no string looks like."""
_RISKY_ESCAPE = r"\\u(?:0000|[dD][89a-fA-F])"
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

    offsets: Int64s
    occurred_at_ms: Int64s
    text: dict[str, Coded]
    arrays: dict[str, pa.Array]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The outcome of a range: every record is in one of the two."""

    events: Events
    rejected: tuple[Rejected, ...]


class Lines:
    """The values of a range as lines, with where each record stood."""

    def __init__(self, record_batches: Sequence[RecordBatch]) -> None:
        batches = [each for each in record_batches if each.count]
        self.count = sum(each.count for each in batches)
        self.joined = b"\n".join(each.joined for each in batches)
        self.has_escapes = b"\\" in self.joined
        starts = np.cumsum([0, *(each.count for each in batches)])
        self.offsets: Int64s = np.concatenate(
            [np.array([], dtype=np.int64)]
            + [
                np.arange(each.first_offset, each.first_offset + each.count)
                if each.offsets is None
                else np.array(each.offsets)
                for each in batches
            ]
        )
        self.append_time_ms: Int64s = np.repeat(
            np.array([each.append_time_ms for each in batches], dtype=np.int64),
            [each.count for each in batches],
        )
        self.irregular: dict[int, bytes | None] = {
            int(start) + position: value
            for start, each in zip(starts, batches, strict=False)
            for position, value in each.irregular.items()
        }

    @cached_property
    def split(self) -> list[bytes]:
        """The lines one by one; made only when some must be looked at singly."""
        return self.joined.split(b"\n") if self.count else []

    def value(self, position: int) -> bytes | None:
        """Return a record's value as the producer sent it."""
        return self.irregular.get(position, self.split[position])


def decode(record_batches: Sequence[RecordBatch]) -> Decoded:
    """Decode and validate a range. The outcome depends on the records alone."""
    lines = Lines(record_batches)
    fast, doubtful = _decode_fast(lines)
    events: list[tuple[int, UsageEvent]] = []
    rejected: list[Rejected] = []
    STRICT.inc(len(doubtful))
    for position in doubtful:
        value, append_time_ms = lines.value(position), int(lines.append_time_ms[position])
        offset = int(lines.offsets[position])
        try:
            event = usage_event.decode(value, append_time_ms=append_time_ms)
        except RecordError as error:
            rejected.append(Rejected(offset, append_time_ms, value, error.reason, error.field))
        else:
            events.append((offset, event))
    if events or fast is None:
        strict = events_of(events)
        fast = strict if fast is None else _join(fast, strict)
    _count_unknown_values(fast.text["quality"])
    return Decoded(fast, tuple(rejected))


def _count_unknown_values(quality: Coded) -> None:
    counts = np.bincount(quality.codes[quality.codes >= 0], minlength=len(quality.values))
    for flags, count in zip(quality.values, counts, strict=True):
        for flag in (flags or "").split(","):
            name = flag.removeprefix("unknown_")
            if name != flag and count:
                UNKNOWN_VALUES.labels(name).inc(int(count))


def _decode_fast(lines: Lines) -> tuple[Events | None, Sequence[int]]:
    """Return the events that are plainly valid, and the positions of all other records."""
    positions = np.arange(lines.count)
    frame = _read(lines.joined, lines.count) if lines.count else None
    if frame is None and lines.count:
        good = np.array([_is_typed(line) for line in lines.split], dtype=np.bool_)
        positions = positions[good]
        kept = [line for line, keep in zip(lines.split, good, strict=True) if keep]
        frame = _read(b"\n".join(kept), len(kept)) if kept else None
    if frame is None:
        return None, range(lines.count)
    reader = _Reader(frame, lines, positions)
    keep = ~reader.doubt()
    doubtful = np.ones(lines.count, dtype=np.bool_)
    doubtful[positions[keep]] = False
    return reader.events(keep), np.flatnonzero(doubtful).tolist()


def _read(joined: bytes, count: int) -> pl.DataFrame | None:
    """Return the fields of JSON lines, or ``None`` if any line is not JSON of the right types."""
    try:
        frame = pl.read_ndjson(joined, schema=_SCHEMA)
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == count else None


def _is_typed(line: bytes) -> bool:
    """Say whether a line is a JSON object whose known fields have the right JSON types."""
    try:
        _TYPED.decode(line)
        return line.isascii() or bool(line.decode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


class _Reader:
    """One pass over a frame of fields: which rows are in doubt, and the others' columns."""

    def __init__(self, frame: pl.DataFrame, lines: Lines, positions: npt.NDArray[np.int64]) -> None:
        self._frame = frame
        self._lines = lines
        self._positions = positions
        self._append_time_ms = lines.append_time_ms[positions]
        self._occurred_at_ms, self._readable = instants(frame["occurred_at"])
        self._hashes = {name: hash_prefixes(frame[name]) for name in HASHES}
        self._text: dict[str, Coded] = {}
        self._flags: list[tuple[Coded, tuple[str | None, ...]]] = []

    def doubt(self) -> Mask:
        """Return the rows that only the strict decoder may judge."""
        doubt = self._doubtful_numbers()
        doubt |= ~self._readable
        for _, readable in self._hashes.values():
            doubt |= ~readable
        doubt |= self._occurred_at_ms < usage_event.OCCURRED_AT_MIN_MS
        doubt |= self._occurred_at_ms > self._append_time_ms + usage_event.AHEAD_MS_MAX
        for name in CODED:
            doubt |= self._doubtful_text(name)
        for name in IDS:
            doubt |= self._doubtful_ids(name)
        if self._frame["tags"].null_count() < self._frame.height:
            doubt |= self._doubtful_tags()
        if self._lines.has_escapes:
            doubt |= self._line_series().str.contains(_RISKY_ESCAPE).to_numpy()
        if self._lines.irregular:
            doubt |= np.isin(self._positions, list(self._lines.irregular))
        status = self._text["status"]
        is_ok = status.pick([value == "ok" for value in status.values], False, np.bool_)
        for name in ("tokens_prompt", "tokens_completion"):
            doubt |= is_ok & self._frame[name].is_null().to_numpy()
        return doubt

    def _doubtful_numbers(self) -> Mask:
        """Return the rows with a number out of range, or numbers that contradict each other."""
        version = pl.col("schema_version").fill_null(0)
        conditions = [version != usage_event.SCHEMA_VERSION]
        for field in INTEGERS:
            bounds = pc.min_max(_arrow(self._frame[field.name])).as_py()
            lowest, highest = bounds["min"], bounds["max"]
            # Looked at row by row only where the batch as a whole leaves the range.
            if lowest is not None and (lowest < field.minimum or highest > field.maximum):
                column = pl.col(field.name)
                conditions.append((column < field.minimum) | (column > field.maximum))
        prompt, completion = pl.col("tokens_prompt"), pl.col("tokens_completion")
        cached = pl.col("tokens_cached").fill_null(0) + pl.col("tokens_cache_write").fill_null(0)
        conditions += [
            pl.col("tokens_reasoning") > completion,
            pl.col("tokens_reasoning").is_not_null() & completion.is_null(),
            (cached > 0) & ((cached > prompt) | prompt.is_null()),
            pl.col("ttft_ms").is_not_null()
            & (
                (pl.col("ttft_ms") > pl.col("latency_ms") + usage_event.TTFT_OVER_LATENCY_MS_MAX)
                | ~pl.col("streamed").fill_null(True)
            ),
        ]
        any_true = pl.any_horizontal([each.fill_null(False) for each in conditions])
        mask: Mask = self._frame.select(any_true).to_series().to_numpy()
        return mask.copy()

    def _doubtful_text(self, name: str) -> Mask:
        """Judge each distinct value once, as the strict decoder does."""
        raw = encode(self._frame[name])
        verdicts = [_verdict(name, value) for value in raw.values]
        text = raw.replace([verdict.value for verdict in verdicts])
        default = FIELD[name].default
        self._text[name] = text.fill(default) if isinstance(default, str) else text
        flags = tuple(verdict.flag for verdict in verdicts)
        if any(flags):
            self._flags.append((raw, flags))
        missing = FIELD[name].required
        doubt = raw.pick([verdict.is_refused for verdict in verdicts], missing, np.bool_)
        if any(verdict.may_be_no_text for verdict in verdicts):
            risky = raw.pick([verdict.may_be_no_text for verdict in verdicts], False, np.bool_)
            doubt |= self._was_not(name, '"', risky)
        return doubt

    def _doubtful_ids(self, name: str) -> Mask:
        series = self._frame[name]
        field = FIELD[name]
        length = series.str.len_chars()
        doubt: Mask = (length > field.max_length).fill_null(False).to_numpy().copy()
        if field.required:
            doubt |= (length.fill_null(0) == 0).to_numpy()
        risky = series.str.contains(_NO_JSON_TEXT).fill_null(False).to_numpy()
        return doubt | self._was_not(name, '"', risky) if risky.any() else doubt

    def _doubtful_tags(self) -> Mask:
        """Judge each distinct set of tags once."""
        raw = encode(self._frame["tags"])
        texts: list[str | None] = []
        for value in raw.values:
            try:
                tags = json.loads(value or "{}", object_pairs_hook=_first_of_equal_names)
                texts.append(usage_event.read(FIELD["tags"], tags) or "")
            except (RecordError, json.JSONDecodeError):
                texts.append(None)
        self._text["tags"] = raw.replace(texts)
        doubt = raw.pick([text is None for text in texts], False, np.bool_)
        # The text of an object and a JSON string that holds the same text look alike here. But the
        # quotes inside a string are escaped, so a line without a backslash has the object.
        unsure = raw.pick([text == "" for text in texts], False, np.bool_)
        if self._lines.has_escapes:
            escaped = self._line_series().str.contains("\\", literal=True).to_numpy()
            unsure |= escaped & (raw.codes >= 0)
        return doubt | self._was_not("tags", "{", unsure) if unsure.any() else doubt

    def _was_not(self, name: str, opener: str, rows: Mask) -> Mask:
        """Return those of ``rows`` whose raw value can't be shown to begin with ``opener``."""
        found = np.flatnonzero(rows)
        series = self._line_series().gather(found)
        plain = series.str.contains(rf'"{name}"\s*:\s*{re.escape(opener)}')
        plain &= series.str.count_matches(f'"{name}"', literal=True) == 1
        doubt = np.zeros(len(rows), dtype=np.bool_)
        doubt[found] = ~plain.to_numpy()
        return doubt

    def _line_series(self) -> pl.Series:
        split = self._lines.split
        if len(self._positions) == len(split):
            return pl.Series(split, dtype=pl.Binary).cast(pl.String)
        kept = [split[position] for position in self._positions]
        return pl.Series(kept, dtype=pl.Binary).cast(pl.String)

    def events(self, keep: Mask) -> Events:
        """Return the columns of the rows that are kept."""
        frame = self._frame if keep.all() else self._frame.filter(pl.Series(keep))
        mask = pa.array(keep)
        arrays: dict[str, pa.Array] = {
            name: _arrow(frame[name]) for name in (*STORED_INTEGERS, *BOOLEANS)
        }
        arrays["attempt"] = arrays["attempt"].fill_null(0)
        arrays["event_id"] = _arrow(frame["event_id"]).cast(pa.string())
        ids = frame["request_id"]
        arrays["request_id"] = _arrow(ids.set(ids == "", None)).cast(pa.string())
        arrays |= {name: values.filter(mask) for name, (values, _) in self._hashes.items()}
        tags = self._text.pop("tags", None)
        arrays["tags"] = (
            pa.array([""] * frame.height, pa.string())
            if tags is None
            else tags.take(keep).to_arrow("").cast(pa.string())
        )
        text = {name: coded.take(keep) for name, coded in self._text.items()}
        text["quality"] = self._quality().take(keep)
        return Events(
            self._lines.offsets[self._positions[keep]],
            self._occurred_at_ms[keep],
            text,
            arrays,
        )

    def _quality(self) -> Coded:
        """Return the flags of each row, sorted and comma-joined; null where there are none."""
        late = self._occurred_at_ms < self._append_time_ms - usage_event.LATE_MS
        quality = Coded(np.where(late, 0, -1).astype(np.int32), ("late",))
        for raw, flags in self._flags:
            quality = _with_flags(quality, raw, flags)
        return quality


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
    value: str | None
    flag: str | None = None
    is_refused: bool = False
    may_be_no_text: bool = False


_verdicts: dict[tuple[str, str | None], _Verdict] = {}


def _verdict(name: str, value: str | None) -> _Verdict:
    """Return what the strict decoder makes of a text, remembered."""
    found = _verdicts.get((name, value))
    if found is None:
        if len(_verdicts) >= _VERDICTS_MAX:
            _verdicts.clear()
        found = _verdicts[name, value] = _judge(name, value)
    return found


def _judge(name: str, value: str | None) -> _Verdict:
    if value is None:
        return _Verdict(None)
    field = FIELD[name]
    try:
        text = usage_event.read(field, value)
    except RecordError:
        return _Verdict(None, is_refused=True)
    is_enum = field.kind == "enum"
    flag = f"unknown_{name}" if is_enum and usage_event.is_unknown(field, {name: value}) else None
    return _Verdict(text, flag, may_be_no_text=bool(re.match(_NO_JSON_TEXT, value)))


def _first_of_equal_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    first: dict[str, Any] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return first


def _arrow(series: pl.Series) -> pa.Array:
    array = series.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    assert isinstance(array, pa.Array)
    return array


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
    text = {name: encode_values(column(name)) for name in CODED}
    text["quality"] = encode_values([",".join(event.quality) or None for _, event in events])
    occurred_at_ms = np.array(column("occurred_at_ms"), dtype=np.int64)
    return Events(offsets, occurred_at_ms, text, arrays)


def _join(first: Events, second: Events) -> Events:
    return Events(
        np.concatenate([first.offsets, second.offsets]),
        np.concatenate([first.occurred_at_ms, second.occurred_at_ms]),
        {name: join(coded, second.text[name]) for name, coded in first.text.items()},
        {
            name: pa.concat_arrays([array, second.arrays[name]])
            for name, array in first.arrays.items()
        },
    )
