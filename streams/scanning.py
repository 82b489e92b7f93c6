"""One pass over JSON lines: each known member of each object into a column.

Compiled, see `streams.compiled`: no published reader gives codes for texts, instants and hashes
without making text of everything first. It reads what is plainly valid and leaves all else in doubt.
A line that it does not doubt is a JSON object whose known members have the right JSON types,
integers within the bounds of their fields, each name once, and nothing required missing. What a text
says is not judged here: equal texts of a field get equal codes, and the caller judges each code once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.usage_event import FIELDS, SCHEMA_VERSION, Field
from streams.compiled import Pointer, compiled, compiled_once, pointer
from streams.json_values import (
    BACKSLASH,
    CLOSE_OBJECT,
    COLON,
    COMMA,
    DOUBT,
    FIRST_PRINTABLE,
    LETTER_N,
    LETTER_T,
    NEWLINE,
    OPEN_OBJECT,
    QUOTE,
    RETURN,
    TAB,
    after_any,
    after_boolean,
    after_null,
    after_space,
    end_of_id,
    end_of_name,
    hash_prefix,
    instant,
    integer,
)
from streams.text_hashes import FNV_OFFSET, FNV_PRIME

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

INTEGER, BOOLEAN, CODED, TAGS, ID, INSTANT, HASH = range(7)
IDS = ("event_id", "request_id")
HASHES = tuple(f.name for f in FIELDS if f.kind == "hash")
INTEGERS = tuple(f.name for f in FIELDS if f.kind == "integer")
BOOLEANS = tuple(f.name for f in FIELDS if f.kind == "boolean")
CODED_TEXTS = tuple(f.name for f in FIELDS if f.kind in ("text", "enum") and f.name not in IDS)
"""Texts with few distinct values."""
CODED_COLUMNS = (*CODED_TEXTS, "tags")

NAME_PLACES = 256
FIELDS_MAX = 64


class FieldTable(NamedTuple):
    """What the pass must know of each field; arrays have an entry per field.

    Attributes:
        names: All names, one after the other.
        name_start, name_length: Where in them.
        places: By `place` of a name the number of its field and 1; 0 where there is none.
        kind: One of `INTEGER` to `HASH`.
        column: Which of the columns of its kind.
        minimum, maximum: Of an integer; ``maximum`` of an id is its length in characters.
        required: Whether it must be there.
    """

    names: Array
    name_start: Array
    name_length: Array
    places: Array
    kind: Array
    column: Array
    minimum: Array
    maximum: Array
    required: Array


class Columns(NamedTuple):
    """What the lines hold; arrays of shape ``(columns of the kind, lines)``.

    Attributes:
        line_start: Where in the text each line begins, and behind the last one: one more than lines.
        doubt: 1 where only the strict decoder may judge a line: nothing else counts of it.
        numbers: Integers, 0 where ``has_number`` is 0: null or absent.
        booleans: 1, 0, or -1 for null.
        instants: Event time, epoch milliseconds.
        hashes: First 64 bits, 0 where ``has_hash`` is 0.
        id_start, id_length: Where in the text an id is, bytes; length -1 is null.
        codes: Codes of texts, -1 for null.
        value_start, value_length: By column and code, where in the text the value is: without its
            quotes, with its escapes; tags with their braces.
        value_count: How many codes a column has.
        slots: By column a hash table of codes and 1; only used in the pass.
    """

    line_start: Array
    doubt: Array
    numbers: Array
    has_number: Array
    booleans: Array
    instants: Array
    hashes: Array
    has_hash: Array
    id_start: Array
    id_length: Array
    codes: Array
    value_start: Array
    value_length: Array
    value_count: Array
    slots: Array


class Text(NamedTuple):
    """The lines, and how the columns of a kind lie one after the other."""

    bytes: Pointer
    end: int
    is_utf8: bool
    lines: int
    fields: int
    slots: int


class FieldPointers(NamedTuple):
    """`FieldTable` for compiled functions."""

    names: Pointer
    name_start: Pointer
    name_length: Pointer
    places: Pointer
    kind: Pointer
    column: Pointer
    minimum: Pointer
    maximum: Pointer
    required: Pointer


class ColumnPointers(NamedTuple):
    """`Columns` for compiled functions."""

    line_start: Pointer
    doubt: Pointer
    numbers: Pointer
    has_number: Pointer
    booleans: Pointer
    instants: Pointer
    hashes: Pointer
    has_hash: Pointer
    id_start: Pointer
    id_length: Pointer
    codes: Pointer
    value_start: Pointer
    value_length: Pointer
    value_count: Pointer
    slots: Pointer


def scan(joined: bytes, count: int) -> Columns:
    """Return what lines hold.

    Args:
        joined: ``count`` lines, each with a newline at its end.

    Raises:
        ValueError: If the last one has none.
    """
    if joined and not joined.endswith(b"\n"):
        raise ValueError("each line must end in a newline")
    columns = _empty_columns(count)
    _scan(np.frombuffer(joined, dtype=np.uint8), count, is_utf8(joined), FIELD_TABLE, columns)
    return columns


def gather(joined: bytes, start: Array, length: Array) -> tuple[Array, Bytes]:
    """Return offsets and bytes of texts one after the other, as Arrow keeps them."""
    offsets = np.zeros(len(start) + 1, dtype=np.int32)
    np.cumsum(np.maximum(length, 0), out=offsets[1:])
    data = np.empty(int(offsets[-1]), dtype=np.uint8)
    _gather(np.frombuffer(joined, dtype=np.uint8), start, offsets, data)
    return offsets, data


def is_utf8(text: bytes) -> bool:
    """Return whether a text is UTF-8, without making one: Arrow looks in a tenth of Python's time."""
    if text.isascii():
        return True
    ends = pa.py_buffer(np.array([0, len(text)], dtype=np.int64))
    array = pa.Array.from_buffers(pa.large_string(), 1, [None, ends, pa.py_buffer(text)])
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _empty_columns(count: int) -> Columns:
    coded = len(CODED_COLUMNS)
    slots = 1 << (2 * count).bit_length()  # At most half full, however many values there are.
    return Columns(
        line_start=np.zeros(count + 1, dtype=np.int64),
        doubt=np.zeros(count, dtype=np.uint8),
        numbers=np.zeros((len(INTEGERS), count), dtype=np.int64),
        has_number=np.zeros((len(INTEGERS), count), dtype=np.uint8),
        booleans=np.full((len(BOOLEANS), count), -1, dtype=np.int8),
        instants=np.zeros(count, dtype=np.int64),
        hashes=np.zeros((len(HASHES), count), dtype=np.uint64),
        has_hash=np.zeros((len(HASHES), count), dtype=np.uint8),
        id_start=np.zeros((len(IDS), count), dtype=np.int64),
        id_length=np.full((len(IDS), count), -1, dtype=np.int32),
        codes=np.full((coded, count), -1, dtype=np.int32),
        value_start=np.empty((coded, count), dtype=np.int64),
        value_length=np.empty((coded, count), dtype=np.int32),
        value_count=np.zeros(coded, dtype=np.int64),
        slots=np.zeros((coded, slots), dtype=np.int32),
    )


# --- The pass ----------------------------------------------------------------------------------


@compiled_once
def _scan(joined: Bytes, count: int, is_utf8: bool, table: FieldTable, columns: Columns) -> None:
    text = Text(
        pointer(joined), len(joined), is_utf8, count, len(table.kind), columns.slots.shape[1]
    )
    fields = FieldPointers(
        pointer(table.names),
        pointer(table.name_start),
        pointer(table.name_length),
        pointer(table.places),
        pointer(table.kind),
        pointer(table.column),
        pointer(table.minimum),
        pointer(table.maximum),
        pointer(table.required),
    )
    out = ColumnPointers(
        pointer(columns.line_start),
        pointer(columns.doubt),
        pointer(columns.numbers),
        pointer(columns.has_number),
        pointer(columns.booleans),
        pointer(columns.instants),
        pointer(columns.hashes),
        pointer(columns.has_hash),
        pointer(columns.id_start),
        pointer(columns.id_length),
        pointer(columns.codes),
        pointer(columns.value_start),
        pointer(columns.value_length),
        pointer(columns.value_count),
        pointer(columns.slots),
    )
    at = 0
    for row in range(count):
        end = _line(text, at, row, fields, out) if at < text.end else DOUBT
        if end == DOUBT:
            out.doubt[row] = 1
            end = at
            while end < text.end and text.bytes[end] != NEWLINE:
                end += 1
        at = end + 1
        out.line_start[row + 1] = at


@compiled
def _line(text: Text, at: int, row: int, fields: FieldPointers, out: ColumnPointers) -> int:
    """Read one line; return where its newline is."""
    byte = text.bytes
    at = after_space(byte, at)
    if byte[at] != OPEN_OBJECT:
        return DOUBT
    seen = np.uint64(0)
    while True:
        at = after_space(byte, at + 1)
        if byte[at] != QUOTE:
            return DOUBT
        start = at + 1
        at = end_of_name(byte, start)
        if at == DOUBT:
            return DOUBT
        field = _field_called(byte, start, at - start, fields)
        at = after_space(byte, at + 1)
        if byte[at] != COLON:
            return DOUBT
        at = after_space(byte, at + 1)
        if field < 0:
            at = after_any(byte, at, text.is_utf8)
        else:
            bit = np.uint64(1) << np.uint64(field)
            if seen & bit:
                return DOUBT  # The first of equal names counts.
            seen |= bit
            at = _value(text, at, row, field, fields, out)
        if at == DOUBT:
            return DOUBT
        at = after_space(byte, at)
        if byte[at] != COMMA:
            break
    if byte[at] != CLOSE_OBJECT:
        return DOUBT
    at = after_space(byte, at + 1)
    if byte[at] != NEWLINE:
        return DOUBT
    for field in range(text.fields):
        if fields.required[field] and not seen & (np.uint64(1) << np.uint64(field)):
            return DOUBT
    return at


@compiled
def _field_called(text: Pointer, start: int, length: int, fields: FieldPointers) -> int:
    """Return the number of the field of a name, or -1."""
    if length == 0:
        return -1
    at = _place(length, text[start], text[start + length - 1])
    while fields.places[at]:
        field = fields.places[at] - 1
        if fields.name_length[field] == length:
            name = fields.name_start[field]
            same = 0
            while same < length and text[start + same] == fields.names[name + same]:
                same += 1
            if same == length:
                return field
        at = (at + 1) & (NAME_PLACES - 1)
    return -1


def place(length: int, first: int, last: int) -> int:
    """Return where to look for a name first, given its length, first and last byte."""
    return (length * 5 + first * 31 + last * 7) & (NAME_PLACES - 1)


_place = compiled(place)


@compiled
def _value(
    text: Text, at: int, row: int, field: int, fields: FieldPointers, out: ColumnPointers
) -> int:
    """Read the value of a known member into its column; return where it ends."""
    byte, kind = text.bytes, fields.kind[field]
    if byte[at] == LETTER_N:
        return DOUBT if fields.required[field] else after_null(byte, at)
    cell = fields.column[field] * text.lines + row
    if kind == INTEGER:
        at, number = integer(byte, at)
        if number < fields.minimum[field] or number > fields.maximum[field]:
            return DOUBT
        out.numbers[cell] = number
        out.has_number[cell] = 1
        return at
    if kind == BOOLEAN:
        out.booleans[cell] = 1 if byte[at] == LETTER_T else 0
        return after_boolean(byte, at)
    if kind == TAGS:
        return _tags(text, at, cell, fields.column[field], out)
    if byte[at] != QUOTE:
        return DOUBT
    at += 1
    if kind == CODED:
        return _coded(text, at, cell, fields.column[field], out)
    if kind == ID:
        return _id(text, at, cell, field, fields, out)
    if kind == HASH:
        if byte[at] == QUOTE:
            return at + 1  # "" is null.
        at, prefix = hash_prefix(byte, at, text.end)
        out.hashes[cell] = prefix
        out.has_hash[cell] = 1
        return at
    at, epoch_ms = instant(byte, at)
    out.instants[row] = epoch_ms
    return at


@compiled
def _id(
    text: Text, at: int, cell: int, field: int, fields: FieldPointers, out: ColumnPointers
) -> int:
    end = end_of_id(text.bytes, at, fields.maximum[field], text.is_utf8)
    if end == DOUBT or (end == at and fields.required[field]):
        return DOUBT
    if end > at:
        out.id_start[cell] = at
        out.id_length[cell] = end - at
    return end + 1


# --- Codes -------------------------------------------------------------------------------------


@compiled
def _coded(text: Text, at: int, cell: int, column: int, out: ColumnPointers) -> int:
    """Read a text; whether its escapes are good ones is judged with it."""
    byte, start, hashed = text.bytes, at, FNV_OFFSET
    while byte[at] != QUOTE:
        each = byte[at]
        if each < FIRST_PRINTABLE:
            return DOUBT
        hashed = (hashed ^ np.uint64(each)) * FNV_PRIME
        at += 1
        if each == BACKSLASH:
            if byte[at] < FIRST_PRINTABLE:
                return DOUBT
            at += 1
    out.codes[cell] = _code(text, start, at - start, hashed, column, out)
    return at + 1


@compiled
def _tags(text: Text, at: int, cell: int, column: int, out: ColumnPointers) -> int:
    """Read an object that holds no other; whether it is a good one is judged with its text."""
    byte, start, hashed = text.bytes, at, FNV_OFFSET
    if byte[at] != OPEN_OBJECT:
        return DOUBT
    in_text = False
    at += 1
    while in_text or byte[at] != CLOSE_OBJECT:
        each = byte[at]
        if (each < FIRST_PRINTABLE and each != TAB and each != RETURN) or (
            each == OPEN_OBJECT and not in_text
        ):
            return DOUBT
        hashed = (hashed ^ np.uint64(each)) * FNV_PRIME
        at += 1
        if each == QUOTE:
            in_text = not in_text
        elif each == BACKSLASH:
            if byte[at] < FIRST_PRINTABLE:
                return DOUBT
            at += 1
    out.codes[cell] = _code(text, start, at + 1 - start, hashed, column, out)
    return at + 1


@compiled
def _code(
    text: Text, start: int, length: int, hashed: np.uint64, column: int, out: ColumnPointers
) -> int:
    """Return the code of a text in its column, a new one if the text is new."""
    byte, values = text.bytes, column * text.lines
    slot, last = column * text.slots, text.slots - 1
    step = int(np.int64((hashed ^ (hashed >> np.uint64(32))) & np.uint64(last)))
    while out.slots[slot + step]:
        code = out.slots[slot + step] - 1
        if out.value_length[values + code] == length:
            first = out.value_start[values + code]
            same = 0
            while same < length and byte[first + same] == byte[start + same]:
                same += 1
            if same == length:
                return code
        step = (step + 1) & last
    code = out.value_count[column]
    out.value_count[column] = code + 1
    out.value_start[values + code] = start
    out.value_length[values + code] = length
    out.slots[slot + step] = code + 1
    return code


@compiled_once
def _gather(joined: Bytes, start: Array, offsets: Array, data: Bytes) -> None:
    source, target = pointer(joined), pointer(data)
    for row in range(len(start)):
        first, begins = start[row], offsets[row]
        for each in range(offsets[row + 1] - begins):
            target[begins + each] = source[first + each]


# --- The fields --------------------------------------------------------------------------------


def _table(fields: Sequence[Field]) -> FieldTable:
    assert len(fields) <= FIELDS_MAX, "more fields than bits in `seen`"
    columns = {
        name: column
        for names in (IDS, HASHES, INTEGERS, BOOLEANS, CODED_COLUMNS)
        for column, name in enumerate(names)
    }
    names = [field.name.encode() for field in fields]
    bounds = [_bounds(field) for field in fields]
    return FieldTable(
        names=np.frombuffer(b"".join(names), dtype=np.uint8),
        name_start=np.cumsum([0, *map(len, names[:-1])]),
        name_length=np.array([len(name) for name in names]),
        places=_places(names),
        kind=np.array([_kind(field) for field in fields]),
        column=np.array([columns.get(field.name, 0) for field in fields]),
        minimum=np.array([minimum for minimum, _ in bounds]),
        maximum=np.array([maximum for _, maximum in bounds]),
        required=np.array([field.required for field in fields], dtype=np.uint8),
    )


def _places(names: Sequence[bytes]) -> Array:
    places = np.zeros(NAME_PLACES, dtype=np.int64)
    for number, name in enumerate(names):
        at = place(len(name), name[0], name[-1])
        while places[at]:
            at = (at + 1) % NAME_PLACES
        places[at] = number + 1
    return places


def _kind(field: Field) -> int:
    kinds = {
        "integer": INTEGER,
        "boolean": BOOLEAN,
        "timestamp": INSTANT,
        "hash": HASH,
        "tags": TAGS,
    }
    return ID if field.name in IDS else kinds.get(field.kind, CODED)


def _bounds(field: Field) -> tuple[int, int]:
    if field.name == "schema_version":
        return SCHEMA_VERSION, SCHEMA_VERSION
    return (
        (field.minimum, field.max_length) if field.name in IDS else (field.minimum, field.maximum)
    )


FIELD_TABLE = _table(FIELDS)
