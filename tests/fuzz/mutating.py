"""Nasty values of Kafka records, any number of them: real events, changed at random.

The same seed makes the same values.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import orjson

from schemas.usage_event import FIELDS

EXAMPLES = Path(__file__).parents[2] / "schemas" / "usage_event" / "examples"
NAMES = [field.name for field in FIELDS]
LONG = 1 << 20
"""The longest value that is read at all, `schemas.usage_event.VALUE_BYTES_MAX`."""
ONE_IN_MEGABYTE = 20_000
"""Every so many values there is one of about a megabyte: more would take all of the time."""

SCALARS = [
    *("0", "-0", "-1", "1", "7", "01", "+1", ".5", "1.", "1.0", "1e0", "1e3", "1E400", "-1e400"),
    *("127", "128", "255", "256", "65535", "65536", "2147483648", "4294967295", "4294967296"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808"),
    *("-9223372036854775809", "18446744073709551615", "18446744073709551616", "9" * 400),
    *("1e-400", "0x10", "1_000", "NaN", "-NaN", "Infinity", "-Infinity", "nan", "inf"),
    *("true", "false", "null", "True", "None", "undefined", "tru", '""', '" "', '"x"', '"1"'),
    *('"1.5"', '"true"', '"null"', '"[x]"', '"{}"', '"{\\"k\\":\\"v\\"}"', '"NaN"', "'x'"),
    *('"\\u0000"', '"\\ud800"', '"\\udc00x"', '"\\ud83d\\ude00"', '"\\uD800\\u0041"', '"\\x00"'),
    *('"\\/"', '"\\u2028"', '"\u2028"', '"\u00a0"', '"\ufeffx"', '"😀"', '"é"', '"İ"', '"ß"'),
    *('"\\n"', '"\n"', '"\t"', '"\x7f"', '"\x01"', '"a@b.c"', '"' + "x" * 65 + '"', '"ﬀ"'),
    *("[]", "{}", "[1]", '{"a":1}', '{"k":"v"}', '{"k":null}', "[[[[]]]]", '{"":""}', "{,}", "[,]"),
    *('"2026-11-24T12:00:00Z"', '"2026-11-24T24:00:00Z"', '"2026-02-30T00:00:00Z"'),
    *('"0000-00-00T00:00:00Z"', '"9999-12-31T23:59:59.999Z"', '"2026-11-24T12:00:60Z"'),
    *(
        '"2026-11-24T12:00:00.123456789+23:59"',
        '"2026-11-24t12:00:00.1z"',
        '"２026-11-24T12:00:00Z"',
    ),
    *('"' + "ab" * 32 + '"', '"' + "AB" * 31 + '"', '"' + "0" * 64 + '"', '"' + "é" * 64 + '"'),
]
PIECES = [
    *(b"\x00", b"\n", b"\r\n", b"\r", b"\t", b" ", b"\x0b", b"\x0c", b"\x1e", b"\x1b", b"\x7f"),
    *(b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xc3\x28"),
    *(b"\xe2\x80\xa8", b"\xc2\x85", b'"', b"\\", b"\\u", b"\\ud8", b'\\"', b"{", b"}", b"[", b"]"),
    *(b",", b":", b"{}", b"[]", b"//", b"/**/", b"#", b"'", b",,", b"::", b"NaN", b"-", b"e", b"."),
    *(b'"tags":{', b'"app_id":', b'"event_id":"x",', b'"status":null,', b"null", b"true"),
]
ENCODINGS = (
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "latin-1",
    "utf-8-sig",
    "utf-7",
    "cp1252",
)


def seeds() -> list[bytes]:
    """Return real events and known refusals, in the forms that JSON may have."""
    found = [path.read_bytes() for path in sorted(EXAMPLES.glob("*/*.json"))]
    for path in sorted(EXAMPLES.glob("valid/*.json")):
        event = json.loads(path.read_bytes())
        found.append(orjson.dumps(event))
        found.append(json.dumps(event).encode())
        full = {name: event.get(name) for name in NAMES}
        found.append(json.dumps(full, separators=(", ", " : ")).encode())
    return found


class Mutator:
    """Makes values; see the module."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._seeds = seeds()
        self._good = [each for each in self._seeds if each.startswith(b'{"')]
        self._changes: list[Callable[[bytes], bytes | None]] = [
            self._flip,
            self._insert,
            self._delete,
            self._repeat,
            self._cut,
            self._splice,
            *[self._set_member] * 8,
            *[self._add_member] * 4,
            self._rename_member,
            self._many_members,
            self._nest,
            self._encode,
            self._wrap,
            self._spread,
            self._random_bytes,
        ]
        self._made = 0

    def values(self, count: int) -> list[bytes | None]:
        """Return the next values; ``None`` is a tombstone."""
        return [self._value() for _ in range(count)]

    def batches(self, count: int) -> Iterator[list[bytes | None]]:
        """Yield ``count`` values in lots of 1 to 400."""
        while count > 0:
            size = min(self._random.choice((1, 2, 3, 20, 100, 400)), count)
            count -= size
            yield self.values(size)

    def _value(self) -> bytes | None:
        self._made += 1
        if self._made % ONE_IN_MEGABYTE == 0:
            return self._megabyte()
        pick = self._random.random()
        if pick < 0.25:
            return self._fresh()
        if pick < 0.27:
            return self._random.choice((None, b"", b" ", b"\n", b"{}", b"null", b"[]", b'""', b"0"))
        value: bytes | None = self._fresh() if pick < 0.9 else self._random.choice(self._seeds)
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            value = self._random.choice(self._changes)(value) if value else value
        return value

    def _fresh(self) -> bytes:
        """Return a valid event under an id of its own."""
        return self._random.choice(self._good).replace(b"synthetic:", b"s:%d:" % self._made, 1)

    def _place(self, value: bytes) -> int:
        return self._random.randrange(len(value) + 1)

    def _flip(self, value: bytes) -> bytes:
        changed = bytearray(value)
        for _ in range(self._random.choice((1, 1, 2, 8))):
            changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        return bytes(changed)

    def _insert(self, value: bytes) -> bytes:
        at = self._place(value)
        return value[:at] + self._random.choice(PIECES) + value[at:]

    def _delete(self, value: bytes) -> bytes:
        at = self._place(value)
        return value[:at] + value[at + self._random.choice((1, 1, 2, 5, 20)) :]

    def _repeat(self, value: bytes) -> bytes:
        begin, end = sorted((self._place(value), self._place(value)))
        return value[:end] + value[begin:end] * self._random.choice((1, 1, 5)) + value[end:]

    def _cut(self, value: bytes) -> bytes:
        return value[: self._place(value)]

    def _splice(self, value: bytes) -> bytes:
        other = self._random.choice(self._seeds)
        return value[: self._place(value)] + other[self._place(other) :]

    def _scalar(self) -> bytes:
        random = self._random
        if random.random() < 0.2:
            number = random.choice((1, -1)) * random.getrandbits(
                random.choice((8, 33, 63, 64, 200))
            )
            return str(number).encode()
        if random.random() < 0.1:
            return str(random.uniform(-1, 1) * 10 ** random.randint(-20, 300)).encode()
        return random.choice(SCALARS).encode("utf-8", "surrogatepass")

    def _name(self) -> bytes:
        name = self._random.choice(NAMES)
        odd = self._random.random()
        if odd < 0.05:
            return name.upper().encode()
        if odd < 0.1:
            at = self._random.randrange(len(name))
            return f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}".encode()
        if odd < 0.15:
            return self._random.choice(
                (b"", b"x", b"meta", name.encode() + b" ", b"\\u0000", b"\\ud800")
            )
        return name.encode()

    def _set_member(self, value: bytes) -> bytes:
        """Give one field another value, where JSON allows to find it."""
        name = b'"%s"' % self._random.choice(NAMES).encode()
        at = value.find(name)
        begin = value.find(b":", at) + 1
        if at < 0 or not begin:
            return self._add_member(value)
        quoted = value[begin:].lstrip()[:1] == b'"'
        after = value.find(b'"', value.find(b'"', begin) + 1) + 1 if quoted else begin
        end = min(
            each
            for each in (value.find(b",", after), value.find(b"}", after), len(value))
            if each >= 0
        )
        return value[:begin] + self._scalar() + value[end:]

    def _add_member(self, value: bytes) -> bytes:
        """Say a field once more, before or after the others."""
        member = b'"%s":%s' % (self._name(), self._scalar())
        if self._random.random() < 0.5:
            return value.replace(b"{", b"{" + member + b",", 1)
        head, brace, tail = value.rpartition(b"}")
        return head + b"," + member + brace + tail

    def _rename_member(self, value: bytes) -> bytes:
        return value.replace(self._random.choice(NAMES).encode(), self._name(), 1)

    def _many_members(self, value: bytes) -> bytes:
        many = self._random.choice((2, 17, 100))
        members = b",".join(b'"%s":%s' % (self._name(), self._scalar()) for _ in range(many))
        if self._random.random() < 0.3:
            members = b'"tags":{' + members + b"}"
        return value.replace(b"{", b"{" + members + b",", 1)

    def _nest(self, value: bytes) -> bytes:
        depth = self._random.choice((2, 10, 120, 130, 500, 600, 990, 1030))
        opening, closing = self._random.choice(((b"[", b"]"), (b'{"a":', b"}")))
        inner = opening * depth + b"1" + closing * depth
        if self._random.random() < 0.3:
            return opening * depth + value + closing * depth
        name = self._random.choice((b"meta", b"tags", b"app_id", b"tokens_prompt"))
        return value.replace(b"{", b'{"%s":%s,' % (name, inner), 1)

    def _encode(self, value: bytes) -> bytes:
        text = value.decode("utf-8", "replace") + "é"
        return text.encode(self._random.choice(ENCODINGS), "replace")

    def _wrap(self, value: bytes) -> bytes:
        before, after = self._random.choice(
            (
                *((b"[", b"]"), (b'"', b'"'), (b" ", b"\n"), (b"\n", b""), (b"\xef\xbb\xbf", b"")),
                *((b"", b"\x00"), (b"", value), (b"", b"\n" + value), (b"{}", b""), (b"//", b"")),
                *((b"", b","), (b"", b"}"), (b"\x1e", b"\n"), (b"\x00\x00\x00\x00\x01", b"")),
            )
        )
        return before + value + after

    def _spread(self, value: bytes) -> bytes:
        """Put white space where JSON allows it."""
        space = self._random.choice((b" ", b"\t", b"\r", b"\n", b"  " * 300))
        return value.replace(self._random.choice((b":", b",", b"{")), b"," + space, 1).replace(
            b"," + space, self._random.choice((b":", b",", b"{")) + space, 1
        )

    def _random_bytes(self, value: bytes) -> bytes:
        return self._random.randbytes(self._random.choice((1, 2, 10, 100, len(value))))

    def _megabyte(self) -> bytes:
        """Return a value about as long as one may be."""
        spare = LONG - 400 + self._random.choice((0, 100, 350, 500, 5000))
        kind = self._random.randrange(5)
        event: dict[str, Any] = orjson.loads(self._fresh())
        if kind == 0:
            return orjson.dumps({**event, "meta": "x" * spare})
        if kind == 1:
            return orjson.dumps({**event, "app_id": "é" * (spare // 2)})
        if kind == 2:
            return orjson.dumps({**event, "meta": [0] * (spare // 2)})
        if kind == 3:
            return b"[" * spare
        return self._random.randbytes(spare)
