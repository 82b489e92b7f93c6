"""Faults at given ratios: what real gateways do wrong, each kind with the answer it must get."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import orjson

from schemas.errors import ConfigurationError, Reason

Event = dict[str, Any]


@dataclass(frozen=True)
class FaultRatios:
    """Shares of the events that get a fault; an event gets at most one.

    Attributes:
        duplicates: Sent again, byte for byte, a block later: same ``event_id``, later offset.
        late: ``occurred_at`` one hour to ten days earlier, as after an outage.
        malformed: Refused by the schema, one of ``MALFORMATIONS``.
        unknown_model: A model no catalogue knows.
        multiline: Valid, but written over several lines.
    """

    duplicates: float = 0.0
    late: float = 0.0
    malformed: float = 0.0
    unknown_model: float = 0.0
    multiline: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self))

    @property
    def cumulative(self) -> list[float]:
        """Upper ends of the slices of 0 to 1 that belong to the faults, in order of ``names``."""
        ends, end = [], 0.0
        for name in self.names:
            end += getattr(self, name)
            ends.append(end)
        return ends

    @classmethod
    def parse(cls, text: str) -> "FaultRatios":
        """Read ``duplicates=0.01,late=0.005``.

        Raises:
            ConfigurationError: For an unknown name, a value outside 0 to 1, or a sum above 1.
        """
        known = {field.name for field in fields(cls)}
        ratios: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.partition("=")
            try:
                ratio = float(value)
            except ValueError:
                ratio = -1.0
            if name not in known:
                raise ConfigurationError(
                    f"unknown fault {name!r}: known are {', '.join(sorted(known))}"
                )
            if not 0 <= ratio <= 1:
                raise ConfigurationError(f"fault {name}: {value!r} is not a ratio from 0 to 1")
            ratios[name] = ratio
        if sum(ratios.values()) > 1:
            raise ConfigurationError("faults add up to more than 1")
        return cls(**ratios)


@dataclass(frozen=True)
class Malformation:
    """One way to break an event.

    Attributes:
        kind: Its name in the truth file.
        reason: The reason code it must be refused with.
        field: The field at fault, ``""`` for the record as a whole.
        damage: Makes the broken value from a valid one.
    """

    kind: str
    reason: Reason
    field: str
    damage: Callable[[bytes], bytes]


def _set(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda value: orjson.dumps({**orjson.loads(value), **changes})


def _without(name: str) -> Callable[[bytes], bytes]:
    def damage(value: bytes) -> bytes:
        event: Event = orjson.loads(value)
        return orjson.dumps({key: item for key, item in event.items() if key != name})

    return damage


def _instead(new: bytes) -> Callable[[bytes], bytes]:
    return lambda _: new


def _in_text(inserted: bytes) -> Callable[[bytes], bytes]:
    """Put bytes inside the first text value."""
    return lambda value: value.replace(b'"event_id":"', b'"event_id":"' + inserted, 1)


def _future(value: bytes) -> bytes:
    event: Event = orjson.loads(value)
    return orjson.dumps({**event, "occurred_at": "2124" + event["occurred_at"][4:]})


def _truncated(value: bytes) -> bytes:
    return value[: len(value) * 2 // 3]


def _malformations() -> Iterator[Malformation]:
    def wrong(
        kind: str, reason: Reason, field: str, damage: Callable[[bytes], bytes]
    ) -> Malformation:
        return Malformation(kind, reason, field, damage)

    yield wrong("empty_value", Reason.EMPTY_VALUE, "", _instead(b""))
    yield wrong("truncated", Reason.INVALID_JSON, "", _truncated)
    yield wrong("not_json", Reason.INVALID_JSON, "", _instead(b"GET /healthz HTTP/1.1"))
    yield wrong("newline_in_text", Reason.INVALID_JSON, "", _in_text(b"\n"))
    yield wrong("not_utf8", Reason.INVALID_JSON, "", _in_text(b"\xff\xfe"))
    yield wrong("array", Reason.NOT_AN_OBJECT, "", lambda value: b"[" + value + b"]")
    yield wrong("text", Reason.NOT_AN_OBJECT, "", _instead(b'"usage"'))
    yield wrong("number", Reason.NOT_AN_OBJECT, "", _instead(b"42"))
    yield wrong(
        "newer_version", Reason.UNSUPPORTED_VERSION, "schema_version", _set(schema_version=2)
    )
    for field in ("event_id", "source", "occurred_at", "model_raw", "status"):
        yield wrong(f"without_{field}", Reason.MISSING_FIELD, field, _without(field))
    yield wrong("tokens_as_text", Reason.WRONG_TYPE, "tokens_prompt", _set(tokens_prompt="1200"))
    yield wrong(
        "tokens_as_float", Reason.WRONG_TYPE, "tokens_completion", _set(tokens_completion=1.5)
    )
    yield wrong("model_as_number", Reason.WRONG_TYPE, "model_raw", _set(model_raw=4))
    yield wrong("streamed_as_text", Reason.WRONG_TYPE, "streamed", _set(streamed="true"))
    yield wrong("tokens_negative", Reason.OUT_OF_RANGE, "tokens_prompt", _set(tokens_prompt=-1))
    yield wrong(
        "tokens_too_many", Reason.OUT_OF_RANGE, "tokens_prompt", _set(tokens_prompt=50_000_001)
    )
    yield wrong("cost_negative", Reason.OUT_OF_RANGE, "cost_nanousd", _set(cost_nanousd=-5))
    yield wrong("status_code_999", Reason.OUT_OF_RANGE, "status_code", _set(status_code=999))
    yield wrong("empty_model", Reason.EMPTY_TEXT, "model_raw", _set(model_raw="  "))
    yield wrong("long_model", Reason.TOO_LONG, "model_raw", _set(model_raw="m" * 257))
    yield wrong("bad_timestamp", Reason.BAD_TIMESTAMP, "occurred_at", _set(occurred_at="yesterday"))
    yield wrong(
        "month_13", Reason.BAD_TIMESTAMP, "occurred_at", _set(occurred_at="2026-13-01T00:00:00Z")
    )
    yield wrong("from_the_future", Reason.FROM_THE_FUTURE, "occurred_at", _future)
    yield wrong("bad_hash", Reason.BAD_HASH, "session_hash", _set(session_hash="f00"))
    yield wrong(
        "raw_identifier", Reason.RAW_IDENTIFIER, "user_hash", _set(user_hash="ada@example.com")
    )
    many = {f"tag-{number}": "x" for number in range(17)}
    yield wrong("many_tags", Reason.TOO_MANY_TAGS, "tags", _set(tags=many))


MALFORMATIONS = tuple(_malformations())


def over_several_lines(value: bytes) -> bytes:
    """Return the same object, indented: still valid, and a trap for line parsers."""
    return orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2)


def zeros() -> Mapping[str, int]:
    """Return a counter per kind of malformation, all 0, so that a kind that did not occur shows."""
    return {malformation.kind: 0 for malformation in MALFORMATIONS}
