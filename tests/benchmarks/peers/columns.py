"""JSON values to rows of ``usage_events`` with Polars: what a careful hand writes, shared by the peers.

One read, one join with a table of model names, one select. It takes the producers at their word: no
range checks, no bad records, no duplicates; a bad line fails the batch.
"""

import time
from collections.abc import Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from schemas.catalogue import UNKNOWN, load_shipped, origin, size_class
from schemas.model import FREE_VARIANT, UNPRICED_VARIANTS, price_at
from schemas.usage_event import FIELDS
from sinks.usage_events import arrow_schema

_TYPES: dict[str, pl.DataType] = {"integer": pl.Int64(), "boolean": pl.Boolean()}
_EVENT = {field.name: _TYPES.get(field.kind, pl.String()) for field in FIELDS}
_ROWS = arrow_schema()
_MODEL = {
    "model_raw": pl.String(),
    "model": pl.String(),
    "vendor": pl.String(),
    "vendor_country": pl.String(),
    "license": pl.String(),
    "open_weights": pl.String(),
    "origin": pl.String(),
    "size_class": pl.String(),
    "reasoning": pl.String(),
    "total_params_b": pl.Float32(),
    "active_params_b": pl.Float32(),
    "per_prompt": pl.Int64(),
    "per_completion": pl.Int64(),
}


class Models:
    """A table of model names, with prices of today; names are resolved as they come."""

    def __init__(self) -> None:
        self._catalogue = load_shipped()
        self._rows: dict[str, dict[str, Any]] = {}
        self.frame = pl.DataFrame(schema=_MODEL)

    def learn(self, names: pl.Series) -> None:
        """Add the names that are new."""
        new = [name for name in names.unique() if name is not None and name not in self._rows]
        if new:
            self._rows |= {name: self._row(name) for name in new}
            self.frame = pl.DataFrame(list(self._rows.values()), schema=_MODEL)

    def _row(self, name: str) -> dict[str, Any]:
        found = self._catalogue.resolve(name)
        if found is None:
            return {"model_raw": name}
        model, price = found.model, price_at(found.model, time.time_ns() // 1_000_000)
        per_prompt = price.prompt_picousd_per_token if price else None
        per_completion = price.completion_picousd_per_token if price else None
        if found.variant == FREE_VARIANT:
            per_prompt = per_completion = 0
        elif found.variant in UNPRICED_VARIANTS:
            per_prompt = per_completion = None
        return {
            "model_raw": name,
            "model": model.model_id,
            "vendor": model.vendor,
            "vendor_country": model.vendor_country,
            "license": model.license,
            "open_weights": {True: "open", False: "closed", None: None}[model.open_weights],
            "origin": origin(model),
            "size_class": size_class(model),
            "reasoning": model.reasoning,
            "total_params_b": model.total_params_b,
            "active_params_b": model.active_params_b,
            "per_prompt": per_prompt,
            "per_completion": per_completion,
        }


def rows_of(
    values: Sequence[bytes], partitions: Sequence[int], offsets: Sequence[int], models: Models
) -> pa.Table:
    """Return the rows of events, in the form of an insert."""
    frame = pl.read_ndjson(b"\n".join(values), schema=_EVENT)
    models.learn(frame["model_raw"])
    places = pl.DataFrame(
        {
            "kafka_partition": pl.Series(partitions, dtype=pl.UInt16),
            "kafka_offset": pl.Series(offsets, dtype=pl.UInt64),
        }
    )
    rows = (
        pl.concat([frame, places], how="horizontal")
        .join(models.frame, on="model_raw", how="left", maintain_order="left")
        .select(_columns())
    )
    return _as_insert(rows)


def _columns() -> list[pl.Expr]:
    priced = pl.col("tokens_prompt") * pl.col("per_prompt")
    priced += pl.col("tokens_completion") * pl.col("per_completion")
    by_list = (priced + 500) // 1000
    has_cost = pl.col("cost_nanousd").is_not_null()
    called = (pl.col("finish_reason") == "tool_calls").fill_null(False)
    called |= (pl.col("tool_calls") > 0).fill_null(False)
    special = {
        "occurred_at": pl.col("occurred_at").str.to_datetime(
            "%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ms", time_zone="UTC"
        ),
        "ingested_at": pl.lit(time.time_ns() // 1_000_000).cast(pl.Datetime("ms", "UTC")),
        "request_id": pl.col("request_id").fill_null(""),
        "operation": pl.col("operation").fill_null("chat"),
        "attempt": pl.col("attempt").fill_null(0),
        "caller_country": pl.col("country").fill_null(UNKNOWN),
        "user_hash": pl.col("user_hash").str.head(16).str.to_integer(base=16, dtype=pl.UInt64),
        "session_hash": pl.col("session_hash")
        .str.head(16)
        .str.to_integer(base=16, dtype=pl.UInt64),
        "cost_nanousd": pl.coalesce("cost_nanousd", by_list),
        "cost_source": pl.when(has_cost)
        .then(pl.lit("gateway"))
        .when(by_list.is_not_null())
        .then(pl.lit("list_price"))
        .otherwise(pl.lit(UNKNOWN)),
        "tool_use": pl.when(called)
        .then(pl.lit("called"))
        .when(pl.col("tool_calls") == 0)
        .then(pl.lit("none"))
        .otherwise(pl.lit(UNKNOWN)),
        "tags": pl.col("tags").fill_null(""),
        "quality": pl.lit(""),
    }
    empty = ("model_raw", "model_requested", "finish_reason_native", "error_type", "service_tier")
    return [
        special.get(
            field.name,
            pl.col(field.name)
            if field.nullable or not pa.types.is_dictionary(field.type)
            else pl.col(field.name).fill_null("" if field.name in empty else UNKNOWN),
        ).alias(field.name)
        for field in _ROWS
    ]


def _as_insert(rows: pl.DataFrame) -> pa.Table:
    """Return dictionaries for text of few values: half of plain text's cost in the engine."""
    arrow = rows.to_arrow(compat_level=pl.CompatLevel.oldest())
    columns = []
    for field in _ROWS:
        column = arrow[field.name]
        if pa.types.is_dictionary(field.type):
            column = column.cast(pa.string()).dictionary_encode()
        columns.append(column.cast(field.type))
    return pa.table(columns, schema=_ROWS).combine_chunks()
