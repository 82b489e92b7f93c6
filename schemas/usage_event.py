"""The usage event, version 1: its fields, and the plain strict decoder.

``usage_event/v1.json`` is the contract; `FIELDS` is read from it. `decode` is the reference that
the columnar decoder (streams/decoding.py) is held equal to. What it does to a valid record, and all
it does:

==============  ===================================================================================
members         the first of several equal names counts, at the top and within tags; names that are
                not in `FIELDS` are ignored, whatever they hold
null, absent    None; attempt becomes 0, operation "chat"
optional ""     as null
text            model_raw loses ASCII whitespace at both ends, provider becomes lower case, country
                upper case; nothing else is changed
enums           a value not listed becomes the field's ``unknown_value``, flag ``unknown_<field>``
occurred_at     epoch milliseconds UTC, finer digits cut
hashes          the first 16 of 64 hexadecimal digits as an unsigned integer
tags            compact JSON text in the order sent, ``""`` when there are none
tokens          reasoning > completion: cut to it, flag ``reasoning_clamped``;
                cached + cache_write > prompt: kept, flag ``cache_exceeds_prompt``
ttft_ms         streamed is false, or ttft > latency + 50: None, flag ``ttft_dropped``
age             older than 7 days at its append time: kept, flag ``late``
==============  ===================================================================================

Checks run in this order, and the first fault is the one reported: the record as a whole, each field
in the order of `FIELDS`, then the rules that join a field with another or with the append time.
Within a text: type, U+0000, trimming, emptiness, length.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from schemas.errors import Reason, RecordError

SCHEMA_VERSION = 1
SCHEMA_FILE = Path(__file__).parent / "usage_event" / "v1.json"
VALUE_BYTES_MAX = 1 << 20
OCCURRED_AT_MIN_MS = 1_420_070_400_000
"""2015-01-01T00:00:00Z."""
AHEAD_MS_MAX = 5 * 60_000
"""How far after its append time an event may start: clocks differ."""
LATE_MS = 7 * 86_400_000
TTFT_OVER_LATENCY_MS_MAX = 50
"""How much a time to first token may exceed the latency: they are rounded apart."""
TAG_KEY_LENGTH_MAX = 64
TAG_VALUE_LENGTH_MAX = 256
ASCII_WHITESPACE = " \t\n\r\f\v"
INT64_END = 1 << 63

Kind = Literal["integer", "boolean", "text", "enum", "timestamp", "hash", "tags"]


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the event, as ``v1.json`` has it.

    Attributes:
        column: ClickHouse column, ``""`` if it is not stored.
        unit: ``""`` when it has none.
        minimum, maximum: Bounds of an integer, inclusive.
        max_length: Unicode code points of a text, after trimming.
        trim: ASCII whitespace at both ends of the text is removed.
        case: What a text is stored in: ``"lower"``, ``"upper"`` or ``""`` (as sent).
        values: Known values of an enum.
        unknown_value: What any other value of the enum is stored as.
        default: What null and absence are stored as.
    """

    name: str
    kind: Kind
    required: bool
    description: str
    column: str = ""
    unit: str = ""
    minimum: int = -INT64_END
    maximum: int = INT64_END - 1
    max_length: int = VALUE_BYTES_MAX
    trim: bool = False
    case: str = ""
    values: tuple[str, ...] = ()
    unknown_value: str = ""
    default: int | str | None = None


def _field(name: str, schema: Mapping[str, Any], required: bool) -> Field:
    keywords = {
        "column": "x-clickhouse-column",
        "unit": "x-unit",
        "minimum": "minimum",
        "maximum": "maximum",
        "max_length": "x-max-length" if "x-max-length" in schema else "maxLength",
        "trim": "x-trim",
        "case": "x-case",
        "unknown_value": "x-unknown-value",
        "default": "default",
    }
    said = {ours: schema[theirs] for ours, theirs in keywords.items() if theirs in schema}
    values = tuple(schema.get("x-open-enum", ()))
    return Field(name, schema["x-kind"], required, schema["description"], values=values, **said)


def _read_fields() -> tuple[Field, ...]:
    schema = orjson.loads(SCHEMA_FILE.read_bytes())
    return tuple(
        _field(name, each, name in schema["required"])
        for name, each in schema["properties"].items()
    )


FIELDS: tuple[Field, ...] = _read_fields()
ENUMS = tuple(field for field in FIELDS if field.kind == "enum")
_DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in FIELDS}


@dataclass(frozen=True, slots=True)
class UsageEvent:
    """A valid event after normalisation; None is unknown, zero is measured zero.

    Attributes:
        occurred_at_ms: Start of the request, epoch milliseconds UTC.
        user_hash, session_hash: First 64 bits of the HMAC, unsigned.
        tags: Compact JSON text of an object, ``""`` when there are none.
        quality: What was found odd or changed, sorted.
    """

    event_id: str
    source: str
    occurred_at_ms: int
    request_id: str | None
    attempt: int
    operation: str
    model_raw: str
    model_requested: str | None
    provider: str | None
    tokens_prompt: int | None
    tokens_completion: int | None
    tokens_reasoning: int | None
    tokens_cached: int | None
    tokens_cache_write: int | None
    cost_nanousd: int | None
    cost_source: str | None
    latency_ms: int | None
    ttft_ms: int | None
    finish_reason: str | None
    finish_reason_native: str | None
    tool_calls: int | None
    streamed: bool | None
    cancelled: bool | None
    is_byok: bool | None
    cache_hit: bool | None
    status: str
    status_code: int | None
    error_type: str | None
    app_id: str | None
    user_hash: int | None
    session_hash: int | None
    region: str | None
    country: str | None
    service_tier: str | None
    category: str | None
    tags: str
    quality: tuple[str, ...]


def decode(value: bytes | None, *, append_time_ms: int) -> UsageEvent:
    """Return the event in a record's value.

    Args:
        value: The value as it came from Kafka; None for a tombstone.
        append_time_ms: The record's LogAppendTime, epoch milliseconds: the broker's clock, so that
            the outcome depends on the record alone.

    Raises:
        RecordError: If the record is refused, with the first fault found.
    """
    members = _members(value)
    event = dict(_DEFAULTS)
    for field in FIELDS:
        raw = members.get(field.name)
        if raw is not None or field.required:
            event[field.name] = read(field, raw)
    flags = [f"unknown_{field.name}" for field in ENUMS if is_unknown(field, members)]
    del event["schema_version"]
    event["occurred_at_ms"] = event.pop("occurred_at")
    event["tags"] = event["tags"] or ""
    flags += _apply_cross_field_rules(event, append_time_ms)
    return UsageEvent(**event, quality=tuple(sorted(flags)))


def _apply_cross_field_rules(event: dict[str, Any], append_time_ms: int) -> list[str]:
    """Check and correct fields against each other; return the flags.

    Source:
        ``x-cross-field-rules`` of ``v1.json``, in that order.
    """
    flags = []
    check_event_time(event["occurred_at_ms"], append_time_ms)
    if event["occurred_at_ms"] < append_time_ms - LATE_MS:
        flags.append("late")
    for name in ("tokens_prompt", "tokens_completion"):
        if event["status"] == "ok" and event[name] is None:
            raise RecordError(Reason.MISSING_FIELD, name)
    completion, reasoning = event["tokens_completion"], event["tokens_reasoning"]
    if completion is not None and reasoning is not None and reasoning > completion:
        event["tokens_reasoning"] = completion
        flags.append("reasoning_clamped")
    cached = (event["tokens_cached"] or 0) + (event["tokens_cache_write"] or 0)
    if event["tokens_prompt"] is not None and cached > event["tokens_prompt"]:
        flags.append("cache_exceeds_prompt")
    ttft_ms, latency_ms = event["ttft_ms"], event["latency_ms"]
    is_over = latency_ms is not None and (ttft_ms or 0) > latency_ms + TTFT_OVER_LATENCY_MS_MAX
    if ttft_ms is not None and (event["streamed"] is False or is_over):
        event["ttft_ms"] = None
        flags.append("ttft_dropped")
    return flags


def check_event_time(occurred_at_ms: int, append_time_ms: int) -> None:
    """Raise RecordError if an event is older than 2015 or starts after it was appended."""
    if occurred_at_ms < OCCURRED_AT_MIN_MS:
        raise RecordError(Reason.OUT_OF_RANGE, "occurred_at")
    if occurred_at_ms > append_time_ms + AHEAD_MS_MAX:
        raise RecordError(Reason.FROM_THE_FUTURE, "occurred_at")


def record_key(members: Mapping[str, Any]) -> bytes | None:
    """Return the Kafka key of an event: its session, else its user, else its id.

    One session then stays in one partition, in order. None if it has none of the three as text.
    """
    for name in ("session_hash", "user_hash", "event_id"):
        text = members.get(name)
        if isinstance(text, str) and text:
            return text.encode()
    return None


# --- The record as a whole ---------------------------------------------------------------------

_MEMBER = re.compile(rb'"\s*:')
_TOKEN = re.compile(rb'"(?:[^"\\]+|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def _members(value: bytes | None) -> dict[str, Any]:
    """Return the top-level members of a record, the first of equal names."""
    if not value:
        raise RecordError(Reason.EMPTY_VALUE)
    if len(value) > VALUE_BYTES_MAX:
        raise RecordError(Reason.TOO_LONG)
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        raise RecordError(Reason.INVALID_JSON) from None
    if not isinstance(document, dict):
        raise RecordError(Reason.NOT_AN_OBJECT)
    tags = document.get("tags")
    seen = len(document) + (len(tags) if isinstance(tags, dict) else 0)
    if _members_max(value) > seen:
        return _first_of_equal_names(value)
    return document


def _members_max(value: bytes) -> int:
    """Return a number of members that a valid JSON text does not exceed, at any depth.

    A quote and a colon after it are the end of a name, or stand inside a text as ``\\":``.
    """
    # Nothing between the two, as in most events, is counted in a fourth of the time.
    if b" " in value or b"\t" in value or b"\n" in value or b"\r" in value:
        return len(_MEMBER.findall(value))
    return value.count(b'":')


def _first_of_equal_names(value: bytes) -> dict[str, Any]:
    """Read a document that orjson has accepted again: orjson keeps the last of equal names."""
    texts = _member_texts(value)
    members = {name: orjson.loads(text) for name, text in texts.items()}
    if isinstance(members.get("tags"), dict):
        tags = _member_texts(texts["tags"])
        members["tags"] = {name: orjson.loads(text) for name, text in tags.items()}
    return members


def _member_texts(json_object: bytes) -> dict[str, bytes]:
    """Return the JSON text of each member of a valid JSON object, the first of equal names.

    A loop over tokens rather than the json module, whose depth limit moves with the caller's stack.
    """
    texts: dict[str, bytes] = {}
    depth = 0
    name, start = "", -1
    last = b""
    for token in _TOKEN.finditer(json_object):
        mark = token[0]
        if mark in (b"{", b"["):
            depth += 1
        elif depth == 1 and mark == b":":
            name, start = orjson.loads(last), token.end()
        elif depth == 1 and mark in (b",", b"}") and start >= 0:
            texts.setdefault(name, json_object[start : token.start()])
        if mark in (b"}", b"]"):
            depth -= 1
        last = mark
    return texts


# --- One field ---------------------------------------------------------------------------------


def read(field: Field, raw: object) -> Any:
    """Return the normalised value of a field.

    Args:
        field: One of `FIELDS`.
        raw: Its value in the JSON document; None when it is null or absent.

    Raises:
        RecordError: If the value breaks a rule of its field.
    """
    if raw is None:
        if field.required:
            raise RecordError(Reason.MISSING_FIELD, field.name)
        return field.default
    value = _READERS[field.kind](field, raw)
    return field.default if value is None else value


def is_unknown(field: Field, members: Mapping[str, Any]) -> bool:
    """Return whether a record has a value that an enum does not list; ``""`` is none."""
    raw = members.get(field.name)
    return bool(raw) and raw not in field.values


def _integer(field: Field, raw: object) -> int:
    if type(raw) is not int:
        # A float of this size is an integer too long for orjson, or as good as one.
        is_too_long = type(raw) is float and abs(raw) >= INT64_END
        raise RecordError(Reason.OUT_OF_RANGE if is_too_long else Reason.WRONG_TYPE, field.name)
    if field.name == "schema_version" and raw != SCHEMA_VERSION:
        raise RecordError(Reason.UNSUPPORTED_VERSION, field.name)
    if not field.minimum <= raw <= field.maximum:
        raise RecordError(Reason.OUT_OF_RANGE, field.name)
    return raw


def _boolean(field: Field, raw: object) -> bool:
    if type(raw) is not bool:
        raise RecordError(Reason.WRONG_TYPE, field.name)
    return raw


def _string(field: Field, raw: object) -> str:
    """Return a JSON string that ClickHouse and the columnar reader can hold."""
    if type(raw) is not str:
        raise RecordError(Reason.WRONG_TYPE, field.name)
    if "\0" in raw:
        raise RecordError(Reason.INVALID_JSON, field.name)
    return raw


def _text(field: Field, raw: object) -> str | None:
    text = _string(field, raw)
    if field.trim:
        text = text.strip(ASCII_WHITESPACE)
    if not text:
        if field.required:
            raise RecordError(Reason.EMPTY_TEXT, field.name)
        return None
    if len(text) > field.max_length:
        raise RecordError(Reason.TOO_LONG, field.name)
    if field.case:
        return text.lower() if field.case == "lower" else text.upper()
    return text


def _enum(field: Field, raw: object) -> str | None:
    text = _string(field, raw)
    if not text and field.required:
        raise RecordError(Reason.EMPTY_TEXT, field.name)
    if text and text not in field.values:
        return field.unknown_value
    return text or None


def _timestamp(field: Field, raw: object) -> int:
    epoch_ms = parse_timestamp(_string(field, raw))
    if epoch_ms is None:
        raise RecordError(Reason.BAD_TIMESTAMP, field.name)
    return epoch_ms


_HASH = re.compile(r"[0-9A-Fa-f]{64}")


def _hash(field: Field, raw: object) -> int | None:
    text = _string(field, raw)
    if not text:
        return None
    if "@" in text:
        raise RecordError(Reason.RAW_IDENTIFIER, field.name)
    if not _HASH.fullmatch(text):
        raise RecordError(Reason.BAD_HASH, field.name)
    return int(text[:16], 16)


TAGS_MAX = 16


def _tags(field: Field, raw: object) -> str | None:
    if not isinstance(raw, dict):
        raise RecordError(Reason.WRONG_TYPE, field.name)
    if len(raw) > TAGS_MAX:
        raise RecordError(Reason.TOO_MANY_TAGS, field.name)
    for key, value in raw.items():
        if len(_string(field, key)) > TAG_KEY_LENGTH_MAX:
            raise RecordError(Reason.TOO_LONG, field.name)
        if len(_string(field, value)) > TAG_VALUE_LENGTH_MAX:
            raise RecordError(Reason.TOO_LONG, field.name)
    return orjson.dumps(raw).decode() if raw else None


_READERS: dict[Kind, Callable[[Field, object], Any]] = {
    "integer": _integer,
    "boolean": _boolean,
    "text": _text,
    "enum": _enum,
    "timestamp": _timestamp,
    "hash": _hash,
    "tags": _tags,
}

# --- Timestamps --------------------------------------------------------------------------------

_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([0-9]{2}):[0-9]{2}:[0-9]{2}"
    r"(?:\.([0-9]{1,9}))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
_SECONDS_LENGTH = len("2026-01-01T00:00:00")
_EPOCH = datetime(1970, 1, 1)


def parse_timestamp(text: str) -> int | None:
    """Return epoch milliseconds of an RFC 3339 timestamp, None if it is not one.

    Finer fractions are cut, not rounded. Refused although the grammar has them: leap seconds (there
    is no epoch millisecond for them), year 0 and more than nine fraction digits.

    Source:
        RFC 3339 section 5.6, with the restrictions of 5.7.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        return None
    hour, fraction, sign, zone_hour, zone_minute = match.groups()
    if hour > "23":  # Python 3.14 reads 24:00, too.
        return None
    try:
        since = datetime.fromisoformat(text[:_SECONDS_LENGTH]) - _EPOCH
    except ValueError:
        return None
    epoch_ms = since.days * 86_400_000 + since.seconds * 1000
    if fraction:
        epoch_ms += int(fraction[:3].ljust(3, "0"))
    if sign:
        if zone_hour > "23" or zone_minute > "59":
            return None
        zone_ms = (int(zone_hour) * 60 + int(zone_minute)) * 60_000
        epoch_ms += zone_ms if sign == "-" else -zone_ms
    return epoch_ms
