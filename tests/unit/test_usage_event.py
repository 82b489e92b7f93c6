"""The usage event: v1.json, its examples, the table of fields, the decoder and the columns agree."""

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas.errors import Reason, RecordError
from schemas.usage_event import (
    AHEAD_MS_MAX,
    FIELDS,
    LATE_MS,
    OCCURRED_AT_MIN_MS,
    SCHEMA_FILE,
    TAG_KEY_LENGTH_MAX,
    TAG_VALUE_LENGTH_MAX,
    TAGS_MAX,
    VALUE_BYTES_MAX,
    UsageEvent,
    _members,
    decode,
    parse_timestamp,
    record_key,
)
from sinks.usage_events import arrow_schema

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
PROPERTIES: dict[str, dict[str, Any]] = SCHEMA["properties"]
EXAMPLES = SCHEMA_FILE.parent / "examples"
VALID = sorted((EXAMPLES / "valid").glob("*.json"))
INVALID = sorted((EXAMPLES / "invalid").glob("*.json"))
EXPECTED: dict[str, dict[str, Any]] = json.loads((EXAMPLES / "expected.json").read_text())

_APPEND_TIME_MS = parse_timestamp(SCHEMA["x-examples-append-time"])
assert _APPEND_TIME_MS is not None
APPEND_TIME_MS = _APPEND_TIME_MS

MINIMAL: dict[str, Any] = json.loads((EXAMPLES / "valid" / "minimal.json").read_text())


def refused_value(case: dict[str, Any]) -> bytes:
    """Return the bytes of an invalid example."""
    if "value_base64" in case:
        return base64.b64decode(case["value_base64"])
    if "value_text" in case:
        return str(case["value_text"]).encode()
    return json.dumps(case["value"]).encode()


def decoded(value: bytes | None) -> UsageEvent:
    return decode(value, append_time_ms=APPEND_TIME_MS)


def encoded(**changes: Any) -> bytes:
    """Return the minimal event with some fields changed, as JSON."""
    return json.dumps({**MINIMAL, **changes}).encode()


def name_of(file: Path) -> str:
    return file.stem


# --- The contract itself -----------------------------------------------------------------------


def test_the_schema_is_valid_and_says_what_every_field_is() -> None:
    """v1.json is JSON Schema 2020-12; each property has a description and a kind with rules."""
    Draft202012Validator.check_schema(SCHEMA)
    for name, each in PROPERTIES.items():
        assert each["description"], name
        assert each["x-kind"] in SCHEMA["x-kinds"], name
        is_bounded = each["x-kind"] not in ("integer", "text") or bool(
            {"maximum", "maxLength", "x-max-length", "const"} & each.keys()
        )
        assert is_bounded, f"{name} has no limit"


def test_the_event_has_the_fields_of_the_schema_in_its_order() -> None:
    """UsageEvent holds each property but the version, and the quality flags."""
    renamed = {"occurred_at": "occurred_at_ms"}
    wanted = [renamed.get(name, name) for name in PROPERTIES if name != "schema_version"]
    assert [field.name for field in dataclasses.fields(UsageEvent)] == [*wanted, "quality"]


def test_the_table_of_fields_says_what_the_schema_says() -> None:
    """FIELDS equals v1.json, keyword by keyword."""
    assert [field.name for field in FIELDS] == list(PROPERTIES)
    for field in FIELDS:
        schema = PROPERTIES[field.name]
        assert field.required == (field.name in SCHEMA["required"])
        assert field.required == ("null" not in schema["type"])
        assert field.column == schema.get("x-clickhouse-column", "")
        assert list(field.values) == schema.get("x-open-enum", [])
        assert field.default == schema.get("default")
        for ours, theirs in (("minimum", "minimum"), ("maximum", "maximum")):
            assert theirs not in schema or getattr(field, ours) == schema[theirs]
        limit = schema.get("maxLength", schema.get("x-max-length"))
        assert limit is None or field.max_length == limit
        assert (field.kind == "enum") == bool(field.values) == bool(field.unknown_value)


def test_limits_named_in_the_code_are_those_of_the_schema() -> None:
    """What v1.json says of tags in keywords, and of the rest in words, is what is enforced."""
    tags = PROPERTIES["tags"]
    assert tags["maxProperties"] == TAGS_MAX
    assert tags["propertyNames"]["maxLength"] == TAG_KEY_LENGTH_MAX
    assert tags["additionalProperties"]["maxLength"] == TAG_VALUE_LENGTH_MAX
    assert str(VALUE_BYTES_MAX) in SCHEMA["x-record-rules"][1]["when"]
    words = " ".join(rule["when"] for rule in SCHEMA["x-cross-field-rules"])
    assert timedelta(milliseconds=AHEAD_MS_MAX) == timedelta(minutes=5)
    assert timedelta(milliseconds=LATE_MS) == timedelta(days=7)
    assert parse_timestamp("2015-01-01T00:00:00Z") == OCCURRED_AT_MIN_MS
    for fact in ("more than 5 minutes after", "more than 7 days before", "2015-01-01T00:00:00Z"):
        assert fact in words


def test_every_column_is_a_field_or_set_by_tokentide() -> None:
    """The columns of usage_events are the schema's, once each, and nothing else."""
    of_fields = [field.column for field in FIELDS if field.column]
    own = SCHEMA["x-columns-set-by-tokentide"]
    assert sorted(of_fields + own) == sorted(arrow_schema().names)
    assert len(set(of_fields + own)) == len(of_fields + own)


def test_columns_are_wide_enough_for_the_schema() -> None:
    """The largest allowed integer of each field fits the type of its column."""
    schema = arrow_schema()
    for field in FIELDS:
        if field.kind == "integer" and field.column:
            assert field.minimum >= 0
            assert field.maximum < 2 ** schema.field(field.column).type.bit_width


def test_the_schema_names_every_reason_and_only_reasons() -> None:
    """Each reason code has a rule in v1.json, and each rule has a known code or a flag."""
    rules = [*SCHEMA["x-record-rules"], *SCHEMA["x-cross-field-rules"]]
    rules += [rule for kind in SCHEMA["x-kinds"].values() for rule in kind]
    named = {rule["reason"] for rule in rules if rule.get("reason")}
    assert named == set(Reason)


def test_examples_cover_every_reason_and_flag() -> None:
    """Every reason code but the database's own has an invalid example, every quality flag a valid one."""
    reasons = {json.loads(file.read_text())["reason"] for file in INVALID}
    assert reasons == set(Reason) - {Reason.REFUSED_BY_CLICKHOUSE}
    flags = {flag for case in EXPECTED.values() for flag in case["quality"]}
    cross = {rule["flag"] for rule in SCHEMA["x-cross-field-rules"] if "flag" in rule}
    assert flags == cross | {f"unknown_{field.name}" for field in FIELDS if field.kind == "enum"}


def test_examples_cover_every_limit_of_a_field() -> None:
    """Each required field, bound and length has an example that breaks it."""
    cases = [json.loads(file.read_text()) for file in INVALID]
    seen = {(case["reason"], case["field"]) for case in cases}
    for field in FIELDS:
        if field.required:
            assert (Reason.MISSING_FIELD, field.name) in seen
        if field.kind == "integer" and field.name != "schema_version":
            assert (Reason.OUT_OF_RANGE, field.name) in seen
        if field.kind == "text":
            assert (Reason.TOO_LONG, field.name) in seen
        if field.kind == "hash":
            assert {(Reason.BAD_HASH, field.name), (Reason.RAW_IDENTIFIER, field.name)} <= seen


# --- Examples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", VALID, ids=name_of)
def test_valid_examples_decode_as_expected(file: Path) -> None:
    """A valid example passes JSON Schema, and is stored and flagged as expected.json says."""
    expected = EXPECTED[file.name]
    event = decoded(file.read_bytes())
    assert list(event.quality) == expected["quality"]
    assert {name: getattr(event, name) for name in expected["stored"]} == expected["stored"]
    Draft202012Validator(SCHEMA).validate(json.loads(file.read_text()))


def test_every_valid_example_has_an_expectation() -> None:
    """expected.json names exactly the files beside it."""
    assert set(EXPECTED) == {file.name for file in VALID}


@pytest.mark.parametrize("file", INVALID, ids=name_of)
def test_invalid_examples_are_refused_as_they_say(file: Path) -> None:
    """An invalid example is refused with exactly its reason and field."""
    case = json.loads(file.read_text())
    with pytest.raises(RecordError) as refused:
        decoded(refused_value(case))
    assert (refused.value.reason.value, refused.value.field) == (case["reason"], case["field"])


@pytest.mark.parametrize("file", INVALID, ids=name_of)
def test_json_schema_refuses_what_it_can_express(file: Path) -> None:
    """JSON Schema alone refuses the invalid examples that say so, and no other."""
    case = json.loads(file.read_text())
    if case["json_schema_refuses"] is None:
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(refused_value(case))
        return
    is_valid = Draft202012Validator(SCHEMA).is_valid(json.loads(refused_value(case)))
    assert is_valid == (not case["json_schema_refuses"])


# --- What files cannot hold --------------------------------------------------------------------


def reason_of(value: bytes | None) -> tuple[str, str]:
    with pytest.raises(RecordError) as refused:
        decoded(value)
    return refused.value.reason.value, refused.value.field


def test_a_tombstone_is_an_empty_value() -> None:
    """A null value is refused like a value of no bytes."""
    assert reason_of(None) == ("empty_value", "")


def test_the_size_limit_is_one_mebibyte() -> None:
    """1,048,576 bytes pass, one more is refused, whatever is in them."""
    padding = VALUE_BYTES_MAX - len(encoded(note=""))
    assert decoded(encoded(note="x" * padding)).event_id == MINIMAL["event_id"]
    assert reason_of(encoded(note="x" * (padding + 1))) == ("too_long", "")
    assert reason_of(b"\xff" * (VALUE_BYTES_MAX + 1)) == ("too_long", "")


def test_the_first_fault_in_the_order_of_the_schema_is_reported() -> None:
    """Of several faults the one whose field comes first counts; joint rules come last."""
    assert reason_of(encoded(country="DEU", event_id="")) == ("empty_text", "event_id")
    assert reason_of(encoded(tokens_prompt=None, occurred_at="2030-01-01T00:00:00Z", tags=1)) == (
        "wrong_type",
        "tags",
    )
    assert reason_of(encoded(tokens_prompt=None, occurred_at="2030-01-01T00:00:00Z")) == (
        "from_the_future",
        "occurred_at",
    )


def test_the_append_time_decides_not_the_wall_clock() -> None:
    """The same event is from the future, in time or late, by the append time alone."""
    at_ms = parse_timestamp(MINIMAL["occurred_at"])
    assert at_ms is not None
    value = encoded()
    assert decode(value, append_time_ms=at_ms - AHEAD_MS_MAX).quality == ()
    with pytest.raises(RecordError, match="from_the_future: occurred_at"):
        decode(value, append_time_ms=at_ms - AHEAD_MS_MAX - 1)
    assert decode(value, append_time_ms=at_ms + LATE_MS).quality == ()
    assert decode(value, append_time_ms=at_ms + LATE_MS + 1).quality == ("late",)


def test_the_first_of_equal_names_counts_however_it_is_written() -> None:
    """Equal names are found behind escapes and white space, beside nested objects, and in tags."""
    text = json.dumps(MINIMAL)[1:-1]
    for between in ("", '\n\t "x": {"status": [1, {"status": 2}]},'):
        changed = f'"status" : "error",{between}{text}, "st\\u0061tus"\t: "timeout"'
        assert decoded(f"{{{changed}}}".encode()).status == "error"
        assert decoded(f"{{{text},{changed}}}".encode()).status == "ok"
    # Punctuation inside texts is no structure.
    tags = r'"tags": {"a\"}:": "1,{", "a\"}:": "2", "b": "\\"}, "tags": {}'
    odd = decoded(f"{{{tags},{text}}}".encode())
    assert orjson.loads(odd.tags) == {'a"}:': "1,{", "b": "\\"}


def test_only_ascii_whitespace_is_trimmed() -> None:
    """A no-break space, a file separator and white space inside stay part of the model's name."""
    assert decoded(encoded(model_raw=" \f\v\u00a0a b\x1c\r\n")).model_raw == "\u00a0a b\x1c"
    assert decoded(encoded(provider=" a ")).provider == " a "


def test_a_wrong_first_value_is_not_saved_by_a_right_second_one() -> None:
    """The first of equal names counts also when it is the faulty one."""
    value = b'{"status": 5,' + encoded()[1:]
    assert reason_of(value) == ("wrong_type", "status")


def test_deep_nesting_has_one_limit() -> None:
    """Unknown members nest up to the parser's limit, with equal names or without."""
    for tail in (b"", b', "status": "error"'):
        deep = encoded()[:-1] + b', "x": %s%s' + tail + b"}"
        assert decoded(deep % (b"[" * 900, b"]" * 900)).status == "ok"
        assert reason_of(deep % (b"[" * 5000, b"]" * 5000)) == ("invalid_json", "")


MEMBER_NAMES = st.sampled_from(["a", "b", "status", "tags", 'q"', "\\", "é", "x:"])
VALUES = st.recursive(
    st.one_of(st.integers(-5, 5), st.booleans(), st.none(), st.sampled_from(['":', "{", "]", ","])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(MEMBER_NAMES, inner, max_size=2)
    ),
    max_leaves=4,
)


@given(
    members=st.lists(st.tuples(MEMBER_NAMES, VALUES), max_size=6),
    separators=st.sampled_from([(",", ":"), (" , ", " : "), (",\n", "\t:\r\n ")]),
)
def test_first_of_equal_names_equals_the_standard_library(
    members: list[tuple[str, Any]], separators: tuple[str, str]
) -> None:
    """Reading members first-wins equals json's pairs hook, for any nesting and white space."""
    comma, colon = separators
    pairs = [
        json.dumps(k) + colon + json.dumps(v, separators=separators)
        for k, v in [*members, *members[:2], ("tags", {"a": 1}), ("tags", {"b": 2})]
    ]
    text = "{" + comma.join(pairs) + "}"

    def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return dict(reversed(pairs))

    assert _members(text.encode()) == json.loads(text, object_pairs_hook=first_wins)


def test_the_key_is_the_session_else_the_user_else_the_event() -> None:
    """The record key follows the rule; what is no text is passed over."""
    assert record_key({"session_hash": "s", "user_hash": "u", "event_id": "e"}) == b"s"
    assert record_key({"session_hash": "", "user_hash": "u", "event_id": "e"}) == b"u"
    assert record_key({"session_hash": None, "user_hash": 5, "event_id": "é"}) == "é".encode()
    assert record_key({}) is None


# --- Timestamps --------------------------------------------------------------------------------


@given(
    moment=st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)),
    digits=st.integers(0, 6),
    offset_minutes=st.one_of(st.none(), st.integers(-1439, 1439)),
    lower=st.booleans(),
)
def test_timestamps_equal_the_standard_library(
    moment: datetime, digits: int, offset_minutes: int | None, lower: bool
) -> None:
    """Any date, fraction and offset reads as datetime.fromisoformat reads it, cut to milliseconds."""
    zone = UTC if offset_minutes is None else timezone(timedelta(minutes=offset_minutes))
    text = moment.replace(microsecond=0, tzinfo=zone).isoformat()
    fraction = f".{moment.microsecond:06d}"[: digits + 1] if digits else ""
    text = text[:19] + fraction + text[19:]
    if offset_minutes is None:
        text = text.replace("+00:00", "Z")
    since_epoch = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    expected = since_epoch // timedelta(milliseconds=1)
    assert parse_timestamp(text.lower() if lower else text) == expected


@given(st.text(alphabet="0123456789-:.TtZz+ ", max_size=36))
@example("2026-11-24T11:59:00+00:60")
@example("2026-11-24T11:60:00Z")
@example("2026-13-01T00:00:00Z")
@example("２026-11-24T11:59:00Z")
@example("2026-11-24T11:59:00Z\n")
@example("0000-01-01T00:00:00Z")
@example("20261124T115900Z")
@example("2026-11-24T11:59Z")
def test_what_is_read_as_a_timestamp_is_one(text: str) -> None:
    """Whatever is accepted is accepted, with the same meaning, by the standard library."""
    epoch_ms = parse_timestamp(text)
    if epoch_ms is not None:
        since_epoch = datetime.fromisoformat(text.upper()) - datetime(1970, 1, 1, tzinfo=UTC)
        assert since_epoch // timedelta(milliseconds=1) == epoch_ms


@pytest.mark.parametrize(
    ("text", "epoch_ms"),
    [
        # RFC 3339 section 5.8, and `date -u -d ... +%s`.
        ("1985-04-12T23:20:50.52Z", 482_196_050_520),
        ("1996-12-19T16:39:57-08:00", 851_042_397_000),
        ("1937-01-01T12:00:27.87+00:20", -1_041_337_172_130),
        ("1990-12-31T23:59:60Z", None),
        ("2024-02-29T00:00:00-00:00", 1_709_164_800_000),
        ("2026-11-24T11:59:00.999999999Z", 1_795_521_540_999),
    ],
)
def test_timestamps_of_the_standard(text: str, epoch_ms: int | None) -> None:
    """RFC 3339's own examples read as the standard means them, leap seconds excepted."""
    assert parse_timestamp(text) == epoch_ms
