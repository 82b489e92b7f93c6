"""Azure's two traces, request by request: real times and tokens, a model nobody named."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import polars as pl

from deploy.local.published import AZURE_CREDIT, azure_requests
from deploy.local.simulator.blocks import BLOCK_EVENTS, Block
from deploy.local.simulator.partitions import murmur2

TRACES = ("code", "conv")
# What the traces say about their models is nothing: a name that resolves to unknown.
MODEL_NAME = "azure-2023/unnamed"


def blocks() -> Iterator[Block]:
    """Yield both traces in order of time. A request's id is its line: a repeat is a re-send."""
    requests = _requests()
    for start in range(0, len(requests), BLOCK_EVENTS):
        yield _block(requests[start : start + BLOCK_EVENTS])


def summary() -> dict[str, Any]:
    """Return what is replayed."""
    return {"replay": "azure-2023", "credit": AZURE_CREDIT, "events": len(_requests())}


def _requests() -> pl.DataFrame:
    traces = [
        azure_requests(trace).with_columns(pl.lit(trace).alias("trace")).with_row_index("line", 1)
        for trace in TRACES
    ]
    return pl.concat(traces).sort("time_ms", "trace", "line")


def _block(requests: pl.DataFrame) -> Block:
    events = [_event(*row) for row in requests.rows()]
    keys = [event["event_id"].encode() for event in events]
    unknown = pl.lit(None, pl.Int64)
    return Block(
        values=[orjson.dumps(event) for event in events],
        keys=keys,
        key_hashes=murmur2(keys),
        facts=requests.select(
            pl.lit(0, pl.Int64).alias("model"),
            "tokens_prompt",
            "tokens_completion",
            unknown.alias("tokens_reasoning"),
            unknown.alias("tokens_cached"),
            unknown.alias("cost_nanousd"),
            pl.lit(False).alias("again"),
        ),
        times_ms=requests["time_ms"].to_numpy(),
    )


def _event(
    line: int, time_ms: int, tokens_prompt: int, tokens_completion: int, trace: str
) -> dict[str, Any]:
    moment = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {
        "schema_version": 1,
        "event_id": f"other:azure-2023-{trace}-{line}",
        "source": "other",
        "occurred_at": moment.replace("+00:00", "Z"),
        "model_raw": MODEL_NAME,
        "tokens_prompt": tokens_prompt,
        "tokens_completion": tokens_completion,
        "status": "ok",
        "app_id": f"azure-{trace}",
    }
