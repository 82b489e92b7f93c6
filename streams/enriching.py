"""What is known of its model, added to every event; and the rows of usage_events.

A raw model name is resolved once per distinct name of a batch; the rows carry codes.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from prometheus_client import Counter

from schemas.catalogue import UNKNOWN, Catalogue, Resolution, origin, size_class
from schemas.model import FREE_VARIANT, UNPRICED_VARIANTS
from streams.columns import Coded
from streams.decoding import Events

UNRESOLVED = Counter("tokentide_models_unresolved", "Events whose model is not in the catalogue.")

Int64s = npt.NDArray[np.int64]

TEXT_ATTRIBUTES = (
    "model_id",
    "vendor",
    "vendor_country",
    "license",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
)
PLAIN_TEXT = ("model_requested", "finish_reason_native", "error_type", "service_tier")
"""Coded text whose unknown is ``''``; that of the dimensions is ``unknown``."""
DIMENSION_TEXT = ("provider", "finish_reason", "status", "app_id", "region", "category")
PICO_PER_NANO = 1000
TOOL_USE = ("unknown", "none", "called")


@dataclass(frozen=True, slots=True)
class Block:
    """The rows of one month of a range: one insert, one table partition.

    Attributes:
        month: YYYYMM of the event times.
        rows: Columns of usage_events, in the table's order.
        newest_ms: Newest event time, epoch milliseconds.
    """

    month: int
    rows: pa.Table
    newest_ms: int


def enrich(
    events: Events, catalogue: Catalogue, *, partition: int, ingested_at_ms: int
) -> pa.Table:
    """Return the rows of usage_events for decoded events.

    Args:
        events: Any number of them.
        catalogue: What is known of models now.
        partition: Kafka partition that all of them come from.
        ingested_at_ms: Epoch milliseconds, the same for the whole batch.
    """
    count = len(events.offsets)
    names = events.text["model_raw"]
    resolved = [catalogue.resolve(name) if name else None for name in names.values]
    known = names.pick([each is not None for each in resolved], False, np.bool_)
    UNRESOLVED.inc(count - int(known.sum()))
    model = _model_columns(names, resolved)
    cost, cost_source = _cost(events, names, resolved)
    text = {name: events.text[name].to_arrow("") for name in PLAIN_TEXT}
    text |= {name: events.text[name].to_arrow(UNKNOWN) for name in DIMENSION_TEXT}
    numbers = events.arrays
    columns: dict[str, pa.Array] = {
        "event_id": numbers["event_id"],
        "occurred_at": _instants(events.occurred_at_ms),
        "ingested_at": _instants(np.full(count, ingested_at_ms, dtype=np.int64)),
        "kafka_partition": pa.array(np.full(count, partition, dtype=np.uint16)),
        "kafka_offset": pa.array(events.offsets.astype(np.uint64)),
        "source": events.text["source"].to_arrow("other"),
        "operation": events.text["operation"].to_arrow("chat"),
        "request_id": numbers["request_id"].fill_null(""),
        "attempt": numbers["attempt"].fill_null(0).cast(pa.uint8()),
        "model_raw": names.to_arrow(""),
        "model": model["model_id"],
        "model_requested": text["model_requested"],
        **{name: model[name] for name in TEXT_ATTRIBUTES[1:]},
        "total_params_b": model["total_params_b"],
        "active_params_b": model["active_params_b"],
        "provider": text["provider"],
        "tokens_prompt": numbers["tokens_prompt"].cast(pa.uint32()),
        "tokens_completion": numbers["tokens_completion"].cast(pa.uint32()),
        "tokens_reasoning": numbers["tokens_reasoning"].cast(pa.uint32()),
        "tokens_cached": numbers["tokens_cached"].cast(pa.uint32()),
        "tokens_cache_write": numbers["tokens_cache_write"].cast(pa.uint32()),
        "cost_nanousd": cost,
        "cost_source": cost_source.to_arrow(UNKNOWN),
        "latency_ms": numbers["latency_ms"].cast(pa.uint32()),
        "ttft_ms": numbers["ttft_ms"].cast(pa.uint32()),
        "finish_reason": text["finish_reason"],
        "finish_reason_native": text["finish_reason_native"],
        "tool_calls": numbers["tool_calls"].cast(pa.uint16()),
        "tool_use": _tool_use(events),
        "streamed": numbers["streamed"],
        "cancelled": numbers["cancelled"],
        "is_byok": numbers["is_byok"],
        "cache_hit": numbers["cache_hit"],
        "status": text["status"],
        "status_code": numbers["status_code"].cast(pa.uint16()),
        "error_type": text["error_type"],
        "app_id": text["app_id"],
        "user_hash": numbers["user_hash"],
        "session_hash": numbers["session_hash"],
        "region": text["region"],
        "caller_country": events.text["country"].to_arrow(UNKNOWN),
        "service_tier": text["service_tier"],
        "category": text["category"],
        "tags": numbers["tags"],
        "quality": events.text["quality"].to_arrow(""),
    }
    return pa.table(columns)


def blocks_by_month(rows: pa.Table) -> Iterator[Block]:
    """Split rows by the month of their event time, oldest month first.

    A block then touches one table partition, which makes its insert atomic.
    """
    if not rows.num_rows:
        return
    instants = rows["occurred_at"].combine_chunks().cast(pa.int64()).to_numpy()
    months = instants.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    for month in np.unique(months):
        mask = months == month
        name = (1970 + int(month) // 12) * 100 + int(month) % 12 + 1
        block = rows if mask.all() else rows.filter(pa.array(mask))
        yield Block(name, block, int(instants[mask].max()))


def _instants(epoch_ms: Int64s) -> pa.Array:
    return pa.array(epoch_ms).cast(pa.timestamp("ms", tz="UTC"))


def _model_columns(names: Coded, resolved: list[Resolution | None]) -> dict[str, pa.Array]:
    texts = [texts_of(each) for each in resolved]
    columns: dict[str, pa.Array] = {
        name: names.replace([each[i] for each in texts]).to_arrow(UNKNOWN)
        for i, name in enumerate(TEXT_ATTRIBUTES)
    }
    last = np.where(names.codes < 0, len(resolved), names.codes)
    for name in ("total_params_b", "active_params_b"):
        sizes = [getattr(each.model, name) if each else None for each in (*resolved, None)]
        columns[name] = pa.array(sizes, pa.float32()).take(pa.array(last))
    return columns


def texts_of(resolution: Resolution | None) -> tuple[str | None, ...]:
    """Return `TEXT_ATTRIBUTES` of a model; ``None`` is unknown."""
    if resolution is None:
        return (None,) * len(TEXT_ATTRIBUTES)
    model = resolution.model
    weights = {True: "open", False: "closed", None: None}[model.open_weights]
    return (
        model.model_id,
        model.vendor,
        model.vendor_country,
        model.license,
        weights,
        origin(model),
        size_class(model),
        model.reasoning,
    )


def _cost(
    events: Events, names: Coded, resolved: list[Resolution | None]
) -> tuple[pa.Array, Coded]:
    """Return the cost of each event in nano-USD, and where it comes from.

    What the gateway says counts. Else the list price at the event's time, if the model resolves
    and has one: (prompt tokens * price + completion tokens * price) rounded half up.
    """
    given = events.arrays["cost_nanousd"]
    source = events.text["cost_source"]
    prompt, completion = events.arrays["tokens_prompt"], events.arrays["tokens_completion"]
    wanted = given.is_null().to_numpy(zero_copy_only=False)
    wanted &= names.pick([each is not None for each in resolved], False, np.bool_)
    gateway = np.where(given.is_valid().to_numpy(zero_copy_only=False), 1, 0)
    # An event with a cost and no word on its source has it from its gateway.
    kinds = np.where(source.codes < 0, gateway, source.codes + 2).astype(np.int32)
    if not wanted.any():
        return given.cast(pa.uint64()), _kinds(kinds, source)
    rows = np.flatnonzero(wanted)
    cost, priced = list_cost_nanousd(
        names.codes[rows],
        resolved,
        events.occurred_at_ms[rows],
        prompt.fill_null(-1).to_numpy()[rows],
        completion.fill_null(-1).to_numpy()[rows],
    )
    rows, cost = rows[priced], cost[priced]
    values = given.fill_null(0).to_numpy().copy()
    values[rows] = cost
    missing = given.is_null().to_numpy(zero_copy_only=False)
    missing[rows] = False
    kinds[rows] = len(source.values) + 2
    return pa.array(values, mask=missing).cast(pa.uint64()), _kinds(kinds, source)


def _kinds(kinds: npt.NDArray[np.int32], source: Coded) -> Coded:
    coded = Coded(kinds, (UNKNOWN, "gateway", *source.values, "list_price"))
    return coded.replace(coded.values)


def list_cost_nanousd(
    codes: npt.NDArray[np.int32],
    resolved: list[Resolution | None],
    occurred_at_ms: Int64s,
    tokens_prompt: Int64s,
    tokens_completion: Int64s,
) -> tuple[Int64s, npt.NDArray[np.bool_]]:
    """Return list prices in nano-USD, and whether there is one, for events of resolved models.

    Unknown tokens are -1.

    The columnar form of `schemas.catalogue.list_cost_nanousd`.
    """
    cost = np.zeros(len(codes), dtype=np.int64)
    priced = np.zeros(len(codes), dtype=np.bool_)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    for rows in np.split(order, starts[1:]):
        resolution = resolved[codes[rows[0]]]
        assert resolution is not None
        if resolution.variant == FREE_VARIANT:
            priced[rows] = True
            continue
        prices = resolution.model.prices
        if not prices or resolution.variant in UNPRICED_VARIANTS:
            continue
        table = np.array([dataclasses.astuple(price) for price in prices], dtype=np.int64)
        index = np.searchsorted(table[:, 0], occurred_at_ms[rows], side="right") - 1
        _, per_prompt, per_completion = table[index].T
        pico = tokens_prompt[rows] * per_prompt + tokens_completion[rows] * per_completion
        cost[rows] = (pico + PICO_PER_NANO // 2) // PICO_PER_NANO
        priced[rows] = (index >= 0) & (tokens_prompt[rows] >= 0) & (tokens_completion[rows] >= 0)
    return cost, priced


def _tool_use(events: Events) -> pa.Array:
    """Return whether tools were called: by the count, else by the finish reason."""
    calls = events.arrays["tool_calls"]
    counted = calls.fill_null(-1).to_numpy()
    reasons = events.text["finish_reason"]
    by_reason = reasons.pick([value == "tool_calls" for value in reasons.values], False, np.bool_)
    codes = np.where(by_reason | (counted > 0), 2, np.where(counted == 0, 1, 0))
    return pa.DictionaryArray.from_arrays(
        pa.array(codes.astype(np.int32)), pa.array(TOOL_USE, pa.string())
    )
