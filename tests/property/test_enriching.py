"""Enriching columns equals looking each event's model up."""

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalogue import Catalogue, Model, Price, list_cost_nanousd, origin, size_class
from sinks.usage_events import arrow_schema
from streams.decoding import decode
from streams.enriching import blocks_by_month, enrich
from tests.record_batch import record_batch

APPEND_TIME_MS = 1_780_000_000_000
HOUR_MS = 3_600_000
PRICES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 10**9), st.integers(0, 10**9)),
    max_size=4,
    unique_by=lambda price: price[0],
).map(
    lambda prices: tuple(
        Price(APPEND_TIME_MS - hours * HOUR_MS, prompt, completion)
        for hours, prompt, completion in sorted(prices, reverse=True)
    )
)
MODELS = st.builds(
    Model,
    model_id=st.sampled_from(["a/one", "a/two", "b/three"]),
    vendor=st.sampled_from([None, "a", "b"]),
    vendor_country=st.sampled_from([None, "CN", "US"]),
    license=st.sampled_from([None, "MIT"]),
    open_weights=st.sampled_from([None, True, False]),
    total_params_b=st.sampled_from([None, 7.0, 15.0, 70.0]),
    active_params_b=st.sampled_from([None, 3.5]),
    reasoning=st.sampled_from([None, "none", "optional", "always"]),
    prices=PRICES,
)
NAMES = st.sampled_from(
    [
        "a/one",
        "A/ONE:free",
        "a/two",
        "a/two:batch",
        "b/three:nitro",
        "b/three",
        "c/none",
        "c/none:free",
    ]
)
EVENTS = st.fixed_dictionaries(
    {
        "model_raw": NAMES,
        "hours": st.integers(0, 60),
        "tokens_prompt": st.one_of(st.none(), st.integers(0, 50_000_000)),
        "tokens_completion": st.one_of(st.none(), st.integers(0, 10_000_000)),
        "cost_nanousd": st.one_of(st.none(), st.none(), st.integers(0, 10**12)),
        "cost_source": st.sampled_from([None, "gateway", "list_price", "odd"]),
        "tool_calls": st.sampled_from([None, 0, 2]),
        "finish_reason": st.sampled_from([None, "stop", "tool_calls"]),
    }
)


def value(number: int, event: dict[str, object]) -> bytes:
    hours = event["hours"]
    assert isinstance(hours, int)
    moment = np.datetime64(APPEND_TIME_MS - hours * HOUR_MS, "ms")
    members = {name: each for name, each in event.items() if name != "hours"}
    return orjson.dumps(
        {
            "schema_version": 1,
            "event_id": f"e-{number}",
            "source": "synthetic",
            "occurred_at": f"{moment}Z",
            "status": "error",
            **members,
        }
    )


@settings(max_examples=80)
@given(
    st.lists(MODELS, max_size=3, unique_by=lambda model: model.model_id),
    st.lists(EVENTS, min_size=1, max_size=20),
)
def test_each_row_has_what_is_known_of_its_model(
    models: list[Model], events: list[dict[str, object]]
) -> None:
    """Attributes, cost and its source of every row are those of its own name and time."""
    catalogue = Catalogue.of(models)
    values = [value(i, event) for i, event in enumerate(events)]
    decoded = decode([record_batch(7, *values, append_time_ms=APPEND_TIME_MS)])
    assert not decoded.rejected
    rows = enrich(decoded.events, catalogue, partition=3, ingested_at_ms=APPEND_TIME_MS)
    assert rows.schema.names == arrow_schema().names
    assert rows.schema.types == arrow_schema().types
    for row in rows.to_pylist():
        event = events[row["kafka_offset"] - 7]
        found = catalogue.resolve(str(event["model_raw"]))
        model = found.model if found else Model("unknown")
        weights = {True: "open", False: "closed", None: "unknown"}
        expected = {
            "model": model.model_id,
            "vendor": model.vendor or "unknown",
            "vendor_country": model.vendor_country or "unknown",
            "license": model.license or "unknown",
            "open_weights": weights[model.open_weights],
            "origin": origin(model),
            "size_class": size_class(model),
            "reasoning": model.reasoning or "unknown",
            "total_params_b": model.total_params_b,
            "active_params_b": model.active_params_b,
        }
        assert {name: row[name] for name in expected} == expected
        cost, source = expected_cost(event, catalogue)
        assert (row["cost_nanousd"], row["cost_source"]) == (cost, source)
        assert row["tool_use"] == expected_tool_use(event)
    blocks = list(blocks_by_month(rows))
    assert sum(block.rows.num_rows for block in blocks) == rows.num_rows
    for block in blocks:
        months = {f"{moment:%Y%m}" for moment in block.rows["occurred_at"].to_pylist()}
        assert months == {str(block.month)}


def expected_cost(event: dict[str, object], catalogue: Catalogue) -> tuple[object, str]:
    """Return cost and source: the gateway's own, else the list price of the time, else unknown."""
    said = {None: None, "odd": "unknown"}.get(event["cost_source"], event["cost_source"])  # type: ignore[call-overload]
    if event["cost_nanousd"] is not None:
        return event["cost_nanousd"], said or "gateway"
    found = catalogue.resolve(str(event["model_raw"]))
    hours, prompt, completion = (event[n] for n in ("hours", "tokens_prompt", "tokens_completion"))
    assert isinstance(hours, int)
    assert prompt is None or isinstance(prompt, int)
    assert completion is None or isinstance(completion, int)
    at_ms = APPEND_TIME_MS - hours * HOUR_MS
    cost = found and list_cost_nanousd(found.model, found.variant, at_ms, prompt, completion)
    return (cost, "list_price") if cost is not None else (None, said or "unknown")


def expected_tool_use(event: dict[str, object]) -> str:
    if event["finish_reason"] == "tool_calls" or event["tool_calls"] == 2:
        return "called"
    return "none" if event["tool_calls"] == 0 else "unknown"
