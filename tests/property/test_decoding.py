"""The columnar decoder equals the strict one, record by record, whatever the neighbours."""

import json
from typing import Any

import orjson
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import usage_event
from schemas.errors import RecordError
from schemas.usage_event import FIELDS
from streams.decoding import STORED_INTEGERS, Events, decode
from streams.scanning import BOOLEANS, CODED_TEXTS, HASHES, IDS
from tests.record_batch import record_batch

APPEND_TIME_MS = 1_780_000_000_000

VALID = {
    "schema_version": 1,
    "event_id": "synthetic:1-1",
    "source": "synthetic",
    "occurred_at": "2026-05-28T20:26:39.123Z",
    "model_raw": "openai/gpt-4o",
    "tokens_prompt": 1200,
    "tokens_completion": 300,
    "status": "ok",
}
INTERESTING: dict[str, list[Any]] = {
    "schema_version": [1, 2, 0, "1", 1.0, True, None],
    "event_id": ["a", "", "1", "1.5", "true", "[x]", "{", "x" * 160, "x" * 161, "é" * 160, 5, None],
    "source": ["openrouter", "somebody", "", "5", 5, None],
    "occurred_at": [
        "2026-05-28T20:26:40Z",
        "2026-05-28t20:26:40z",
        "2026-05-28T20:26:40.1239999+02:00",
        "2026-05-28T20:26:40-23:59",
        "2026-02-29T00:00:00Z",
        "2024-02-29T00:00:00.5Z",
        "2026-05-28T20:26:60Z",
        "2026-05-28T24:00:00Z",
        "2026-05-28 20:26:40Z",
        "2026-05-28T20:26:40",
        "2026-05-28T20:26:40.1234567891Z",
        "0000-01-01T00:00:00Z",
        "2014-12-31T23:59:59.999Z",
        "2015-01-01T00:00:00Z",
        "2026-05-01T00:00:00Z",
        "2026-05-28T20:31:40.000Z",
        "2026-05-28T20:31:40.001Z",
        "２026-05-28T20:26:40Z",
        "",
        20260528,
        None,
    ],
    "model_raw": ["o1", " gpt-4o\t", " ", "", "x" * 257, "12", 12, True, None],
    "model_requested": ["auto", "", "12", 12, None],
    "provider": ["OpenAI", "ÀÉ", "x" * 65, "7", 7, None],
    "status": ["ok", "error", "odd", "", "1", 1, None],
    "cost_source": ["gateway", "guess", None],
    "finish_reason": ["stop", "tool_calls", "eos", 3, None],
    "country": ["de", "DE", "", "deu", 1, None],
    "app_id": ["1234", "1e5", "-3", "true", "x" * 129, 1234, True, [], {}, None],
    "user_hash": ["ab" * 32, "AB" * 32, "0" * 64, "zz" * 32, "ab" * 31, "a@b.c", "", 5, None],
    "session_hash": ["12" * 32, "1" * 63 + "e", None],
    "tags": [
        {},
        {"k": "v"},
        {"k": 'q"\\é\n'},
        {"k": 1},
        {"k": None},
        {"k" * 65: "v"},
        {"k": "v" * 257},
        {str(i): "v" for i in range(17)},
        '{"k":"v"}',
        [],
        None,
    ],
    "streamed": [True, False, 1, "true", None],
    "tokens_prompt": [
        0,
        50_000_000,
        50_000_001,
        -1,
        2**63,
        2**64,
        10**30,
        1.5,
        1e3,
        "1",
        True,
        None,
    ],
    "tokens_completion": [0, 10_000_000, 10_000_001, -(2**63) - 1, None],
    "tokens_reasoning": [0, 300, 301, None],
    "tokens_cached": [0, 1200, 1201, None],
    "tokens_cache_write": [0, 1, None],
    "ttft_ms": [0, 1050, 1051, None],
    "latency_ms": [0, 1000, 86_400_000, 86_400_001, None],
    "attempt": [0, 50, 51, None],
    "meta": [{"app_id": "5"}, {"tags": {"a": "b"}}, [[[]]], "\ud800", "\udc00x", "\x00", 1e400],
}


def _fields() -> st.SearchStrategy[dict[str, Any]]:
    known = {name: st.sampled_from(values) for name, values in INTERESTING.items()}
    others = {
        field.name: st.one_of(st.none(), st.integers(), st.booleans(), st.text(max_size=5))
        for field in FIELDS
        if field.name not in known
    }
    return st.fixed_dictionaries({}, optional={**known, **others})


def _dumped(event: dict[str, Any], ascii_only: bool, spaced: bool) -> bytes:
    text = json.dumps(event, ensure_ascii=ascii_only, separators=None if spaced else (",", ":"))
    return text.encode("utf-8", "surrogatepass")


EVENTS = st.builds(
    lambda changes, ascii_only, spaced: _dumped({**VALID, **changes}, ascii_only, spaced),
    _fields(),
    st.booleans(),
    st.booleans(),
)
ONE_CHANGE = st.sampled_from(
    [(name, value) for name, values in INTERESTING.items() for value in values]
).map(lambda pair: _dumped({**VALID, pair[0]: pair[1]}, True, False))
GOOD = st.integers(0, 10**6).map(lambda i: orjson.dumps({**VALID, "event_id": f"synthetic:{i}"}))
BROKEN = st.one_of(
    st.sampled_from(
        [
            None,
            b"",
            b" ",
            b"null",
            b"[1]",
            b'"x"',
            b"{}",
            b"{",
            b"{}{}",
            b"nan",
            b"\xef\xbb\xbf{}",
            b'{"a":"\xff"}',
            b'{"a":"a\x01"}',
            b"\x00",
            b"[" * 1500 + b"]" * 1500,
            b'{"meta":' + b"[" * 950 + b"]" * 950 + b"}",
            b'{"x":"' + b"y" * 3000 + b'"}',
            json.dumps(VALID, indent=1).encode(),
            orjson.dumps(VALID) + b"\n",
            b"  " + orjson.dumps(VALID) + b"\t",
            orjson.dumps(VALID)[:-1] + b',"status":"error"}',
            orjson.dumps(VALID)[:-1] + b',"tags":{"a":"1","a":"2"}}',
            orjson.dumps(VALID)[:-1] + b',"app\\u005fid":5}',
            b'{"tokens_prompt":1.5,' + orjson.dumps(VALID)[1:],
            b'{"app_id":7,"app_id":"x",' + orjson.dumps(VALID)[1:],
            b'{"app_id":"x","app_id":7,' + orjson.dumps(VALID)[1:],
        ]
    ),
    st.binary(max_size=40),
    st.builds(lambda value, cut: value[:cut], GOOD, st.integers(0, 150)),
)


def strict(value: bytes | None) -> Any:
    try:
        return usage_event.decode(value, append_time_ms=APPEND_TIME_MS)
    except RecordError as error:
        return error.reason, error.field


def row(events: Events, index: int) -> usage_event.UsageEvent:
    """Return one row of columns as the strict decoder gives it."""
    fields: dict[str, Any] = {
        name: events.arrays[name][index].as_py()
        for name in (*STORED_INTEGERS, *BOOLEANS, *IDS, *HASHES, "tags")
    }
    for name in (*CODED_TEXTS, "quality"):
        coded = events.text[name]
        code = int(coded.codes[index])
        fields[name] = None if code < 0 else coded.values[code]
    quality = fields.pop("quality")
    return usage_event.UsageEvent(
        **fields,
        occurred_at_ms=int(events.occurred_at_ms[index]),
        quality=tuple(quality.split(",")) if quality else (),
    )


def check(values: list[bytes | None]) -> None:
    batch = record_batch(100, *values, append_time_ms=APPEND_TIME_MS)
    decoded = decode([batch])
    found: dict[int, Any] = {
        int(offset): row(decoded.events, i) for i, offset in enumerate(decoded.events.offsets)
    }
    for each in decoded.rejected:
        assert each.offset not in found
        assert each.value == values[each.offset - 100]
        found[each.offset] = (each.reason, each.field)
    assert found == {100 + i: strict(value) for i, value in enumerate(values)}


def test_each_interesting_value_alone_and_between_good_ones() -> None:
    """Every interesting value of every field is judged as the strict decoder judges it."""
    good = orjson.dumps(VALID)
    for name, values in INTERESTING.items():
        for value in values:
            check([good, _dumped({**VALID, name: value}, True, False), good])


@settings(max_examples=150)
@given(st.lists(st.one_of(EVENTS, GOOD, GOOD, BROKEN, ONE_CHANGE), max_size=12))
@example([None, b"", orjson.dumps(VALID)])
def test_any_mix_of_records(values: list[bytes | None]) -> None:
    """Each record of a batch is stored or refused just as it would be alone."""
    check(values)


@settings(max_examples=150)
@given(st.lists(st.one_of(EVENTS, ONE_CHANGE), min_size=1, max_size=12))
def test_any_mix_of_json_objects(values: list[bytes | None]) -> None:
    """The same where every record is JSON, so that the fast reader takes the whole batch."""
    check(values)
