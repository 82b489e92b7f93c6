"""A closed window of one dimension, as it comes from topic llm-shares-v1."""

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from schemas.errors import Reason, RecordError
from streams.detection import BIN_MS, Bin

VERSION = 1
BIN_SECONDS = BIN_MS // 1000
SHARE_UNIT = 1_000_000_000
"""Shares are whole billionths, so that they sum to exactly 1."""


class ShareWindow(msgspec.Struct, frozen=True):
    """One revision of a closed window; a column has one entry per value.

    Attributes:
        window_end_ms: Exclusive end, event time, epoch milliseconds UTC.
        revision: 0 when it was first given out; higher ones count late events too.
        is_complete: Every partition's watermark had passed its end.
        watermark_ms: As it was then.
        values: Values by name, with ``other`` and ``unknown``; one that had no request is absent.
    """

    version: int
    dimension: str
    window_seconds: int
    window_end_ms: int
    revision: int
    is_complete: bool
    watermark_ms: int
    requests_total: int
    tokens_total: int
    cost_nanousd_total: int
    values: list[str]
    requests: list[int]
    tokens_prompt: list[int]
    tokens_completion: list[int]
    cost_nanousd: list[int]
    errors: list[int]
    tokens_capped: list[int]
    tokens_capped_squared: list[int]
    users: list[int]

    @property
    def is_bin(self) -> bool:
        """Whether the detector takes it: five minutes that touch their neighbours."""
        return self.window_seconds == BIN_SECONDS and self.window_end_ms % BIN_MS == 0


COLUMNS = (
    "requests",
    "tokens_prompt",
    "tokens_completion",
    "cost_nanousd",
    "errors",
    "tokens_capped",
    "tokens_capped_squared",
    "users",
)


def decode_window(value: bytes | None) -> ShareWindow:
    """Return the window of a record; members that are not needed are passed over.

    Raises:
        RecordError: If it is not such a record.
    """
    if not value:
        raise RecordError(Reason.EMPTY_VALUE)
    try:
        window = msgspec.json.decode(value, type=ShareWindow)
    except msgspec.ValidationError as error:
        raise RecordError(Reason.WRONG_TYPE, str(error)) from error
    except msgspec.DecodeError as error:
        raise RecordError(Reason.INVALID_JSON) from error
    if window.version != VERSION:
        raise RecordError(Reason.UNSUPPORTED_VERSION, "version")
    for name in COLUMNS:
        if len(getattr(window, name)) != len(window.values):
            raise RecordError(Reason.OUT_OF_RANGE, name)
    return window


def as_bin(window: ShareWindow) -> Bin:
    """Return a window as the detector takes it."""

    def column(name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array(getattr(window, name), dtype=np.float64)

    return Bin(
        dimension=window.dimension,
        end_ms=window.window_end_ms,
        values=tuple(window.values),
        requests=column("requests"),
        tokens=column("tokens_prompt") + column("tokens_completion"),
        tokens_capped=column("tokens_capped"),
        tokens_capped_squared=column("tokens_capped_squared"),
        users=column("users"),
        errors=column("errors"),
        is_complete=window.is_complete,
    )


def windows_of(table: pa.Table) -> Iterator[ShareWindow]:
    """Yield the windows of a table in the form of `sinks.share_bins`; slow, for few."""
    for row in table.to_pylist():
        yield ShareWindow(version=VERSION, watermark_ms=0, **row)


def bins_of(table: pa.Table) -> Iterator[Bin]:
    """Yield the bins of a table in the form of `sinks.share_bins`, in its order."""
    plain = {
        name: table[name].to_pylist() for name in ("dimension", "window_end_ms", "is_complete")
    }
    values, offsets = _lists(table, "values")
    names = values.to_pylist()
    columns = {
        name: _lists(table, name)[0].cast(pa.float64()).to_numpy(zero_copy_only=False)
        for name in COLUMNS
    }
    tokens = columns["tokens_prompt"] + columns["tokens_completion"]
    for at in range(table.num_rows):
        part = slice(offsets[at], offsets[at + 1])
        yield Bin(
            dimension=plain["dimension"][at],
            end_ms=plain["window_end_ms"][at],
            values=tuple(names[part]),
            requests=columns["requests"][part],
            tokens=tokens[part],
            tokens_capped=columns["tokens_capped"][part],
            tokens_capped_squared=columns["tokens_capped_squared"][part],
            users=columns["users"][part],
            errors=columns["errors"][part],
            is_complete=plain["is_complete"][at],
        )


def _lists(table: pa.Table, name: str) -> tuple[Any, Any]:
    """Return the entries of a column of lists, one after the other, and where each list begins."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return column.flatten(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
