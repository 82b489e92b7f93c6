"""Columns to JSON lines, without a Python loop over events."""

from functools import lru_cache

import numpy as np
import polars as pl

from deploy.local.simulator.requests import FINISH_REASONS, STATUSES, TAGS
from deploy.local.simulator.seasons import DAY_MS, Int64s

_STATUS_TEXT = {
    "ok": ',"status":"ok","status_code":200}',
    "error": ',"status":"error","status_code":502,"error_type":"provider_error"}',
    "rate_limited": ',"status":"rate_limited","status_code":429,"error_type":"rate_limit"}',
    "timeout": ',"status":"timeout","error_type":"timeout"}',
    "cancelled": ',"cancelled":true,"status":"cancelled"}',
}
_STATUS_TEXTS = pl.Series([_STATUS_TEXT[status] for status in STATUSES])
_FINISH_TEXTS = pl.Series([f',"finish_reason":"{reason}"' for reason in FINISH_REASONS])
_CATEGORY_TEXTS = pl.Series([f',"category":"{tag}"' for tag in TAGS])
_STREAMED_TEXTS = pl.Series([',"streamed":false', ',"streamed":true'])


def render(frame: pl.DataFrame, id_prefix: str) -> list[bytes]:
    """Return one JSON object per row; a null column is left out.

    Args:
        frame: The columns of ``describe``, with ``number`` and ``time_ms``.
        id_prefix: Start of ``event_id``; the number follows.
    """
    date, clock, fraction = time_texts(frame["time_ms"].to_numpy())
    texts = frame.with_columns(
        date.alias("date"),
        clock.alias("clock"),
        fraction.alias("fraction"),
        _STATUS_TEXTS.gather(frame["status"]).alias("status_text"),
        _FINISH_TEXTS.gather(frame["finish"]).alias("finish_text"),
        _CATEGORY_TEXTS.gather(frame["category"]).alias("category_text"),
        _STREAMED_TEXTS.gather(frame["streamed"].cast(pl.Int64)).alias("streamed_text"),
    )
    line = pl.concat_str(
        pl.lit(f'{{"schema_version":1,"event_id":"{id_prefix}'),
        "number",
        pl.lit('","source":"synthetic","occurred_at":"'),
        "date",
        "clock",
        "fraction",
        "model_text",
        *(_member(column) for column in _NUMBERS),
        "finish_text",
        "streamed_text",
        "category_text",
        "session_text",
        "status_text",
        ignore_nulls=True,
    )
    lines: list[bytes] = texts.select(line.cast(pl.Binary)).to_series().to_list()
    return lines


_NUMBERS = (
    "tokens_prompt",
    "tokens_completion",
    "tokens_reasoning",
    "tokens_cached",
    "cost_nanousd",
    "latency_ms",
    "ttft_ms",
    "tool_calls",
)


def _member(column: str) -> pl.Expr:
    source = ',"cost_source":"gateway"' if column == "cost_nanousd" else ""
    return pl.concat_str(pl.lit(f',"{column}":'), column, pl.lit(source))


def time_texts(times_ms: Int64s) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Return date, clock and fraction of RFC 3339 times, from tables: formatting is slow."""
    days, day_of = np.unique(times_ms // DAY_MS, return_inverse=True)
    dates = pl.Series(days * DAY_MS).cast(pl.Datetime("ms")).dt.strftime("%Y-%m-%d")
    in_day_ms = times_ms % DAY_MS
    return (
        dates.gather(day_of),
        _clock_texts().gather(in_day_ms // 1000),
        _fraction_texts().gather(in_day_ms % 1000),
    )


@lru_cache(maxsize=1)
def _clock_texts() -> pl.Series:
    seconds = range(DAY_MS // 1000)
    return pl.Series([f"T{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in seconds])


@lru_cache(maxsize=1)
def _fraction_texts() -> pl.Series:
    return pl.Series([f'.{ms:03d}Z"' for ms in range(1000)])
