"""Panes: ten seconds of event time, counted per value of a dimension.

A worker publishes the panes of each range that has landed in ClickHouse to ``llm-usage-panes-v1``;
rolling windows are made of them. A record is one range of one usage partition, for the dimensions of
one partition of the panes topic: an Arrow IPC stream of `PANES` whose schema metadata says which
range it is (`RangeOfPanes`). The same form comes out of ClickHouse when windows are rebuilt.
"""

from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from schemas.errors import Reason, RecordError

VERSION = 1
PANE_MS = 10_000
UNKNOWN = "unknown"
OTHER = "other"
PAIR_SEPARATOR = "|"

DIMENSIONS: dict[str, tuple[str, ...]] = {
    "model": ("model",),
    "vendor": ("vendor",),
    "country": ("vendor_country",),
    "license": ("license",),
    "origin": ("origin",),
    "size_class": ("size_class",),
    "reasoning": ("reasoning",),
    "provider": ("provider",),
    "app": ("app_id",),
    "category": ("category",),
    "region": ("region",),
    "tool_use": ("tool_use",),
    "vendor_region": ("vendor", "region"),
}
"""Dimension and the columns of usage_events that make its value, joined by `PAIR_SEPARATOR`."""

MEASURES = (
    "requests",
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
    "tool_call_requests",
    "errors",
    "tokens_capped",
    "tokens_capped_squared",
)
"""Sums over requests, as in the rollups; unknown adds nothing. ``tokens_capped`` is the sum of
``min(prompt + completion tokens, TOKENTIDE_TOKENS_CAP)``, ``tokens_capped_squared`` of its square:
one very long request must not look like a change of share."""

# Distinct users: a HyperLogLog sketch (Flajolet et al. 2007) of 1,024 registers. An entry is
# `register << 6 | rank`, the highest rank of the register. Standard error 1.04 / sqrt(1024).
REGISTERS = 1024
RANK_BITS = 6
USERS_STANDARD_ERROR = 0.0325

PANES = pa.schema(
    [
        ("dimension", pa.dictionary(pa.int32(), pa.utf8())),
        ("pane_ms", pa.int64()),
        ("value", pa.dictionary(pa.int32(), pa.utf8())),
        *((name, pa.int64()) for name in MEASURES),
        ("users", pa.list_(pa.uint16())),
    ]
)


@dataclass(frozen=True)
class RangeOfPanes:
    """Which range of the usage topic panes were made from.

    Attributes:
        partition: Partition of the usage topic.
        first_offset: First offset of the range.
        next_offset: First offset after it; equal to ``first_offset`` in an idle marker.
        newest_ms: Newest event time of the partition so far, at most the broker's time when it
            arrived. Of an idle partition the time at which it had nothing for windows. Epoch
            milliseconds.
        is_idle: Nothing was unread, or nothing that a window may still hold: the partition holds no
            window open.
        is_whole: The panes hold all that has landed of the range. If not, ask ClickHouse.
    """

    partition: int
    first_offset: int
    next_offset: int
    newest_ms: int
    is_idle: bool = False
    is_whole: bool = True

    def metadata(self) -> dict[str, str]:
        """Return the range as metadata of an Arrow schema."""
        numbers = {name: str(int(value)) for name, value in vars(self).items()}
        return {"version": str(VERSION), **numbers}

    @classmethod
    def of(cls, metadata: dict[bytes, bytes] | None) -> Self:
        """Return the range that metadata names.

        Raises:
            RecordError: If it is not of this version, or no range.
        """
        found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
        if found.get("version") != str(VERSION):
            raise RecordError(Reason.UNSUPPORTED_VERSION, "version")
        try:
            numbers = {name: int(found[name]) for name in cls.__dataclass_fields__}
        except KeyError as missing:
            raise RecordError(Reason.MISSING_FIELD, missing.args[0]) from None
        except ValueError:
            raise RecordError(Reason.WRONG_TYPE, "metadata") from None
        flags = {name: bool(numbers[name]) for name in ("is_idle", "is_whole")}
        return cls(**{**numbers, **flags})  # type: ignore[arg-type]


def encode(panes: pa.Table, panes_range: RangeOfPanes) -> bytes:
    """Return a record of the panes topic.

    Args:
        panes: In the form of `PANES`.
        panes_range: Where they come from.
    """
    sink = pa.BufferOutputStream()
    schema = PANES.with_metadata(panes_range.metadata())
    with pa.ipc.new_stream(sink, schema) as stream:
        stream.write_table(panes.replace_schema_metadata(schema.metadata))
    return bytes(sink.getvalue())


def decode(record: bytes) -> tuple[pa.Table, RangeOfPanes]:
    """Return the panes of a record, in the form of `PANES`, and their range.

    Raises:
        RecordError: If it is not such a record.
    """
    try:
        with pa.ipc.open_stream(record) as stream:
            schema, panes = stream.schema, stream.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise RecordError(Reason.WRONG_TYPE, "panes") from error
    panes_range = RangeOfPanes.of(schema.metadata)
    if not schema.equals(PANES):
        raise RecordError(Reason.WRONG_TYPE, "panes")
    return panes, panes_range
