"""Random rows of usage_events as plain dictionaries, and as the Arrow block of an insert."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from sinks.usage_events import arrow_schema

TAGS = (
    "",
    '{"language":"de"}',
    '{"language":"pt-BR","subcategory":"debugging"}',
    '{"language":"no such tag","subcategory":""}',
)
Row = dict[str, Any]

# model -> vendor, country, license, open_weights, origin, size_class, reasoning
MODELS = {
    "acme/large": ("acme", "US", "proprietary", "closed", "proprietary", "unknown", "always"),
    "acme/small": ("acme", "US", "proprietary", "closed", "proprietary", "unknown", "none"),
    "tiger/72b": ("tiger", "CN", "Apache-2.0", "open", "chinese_open", "large", "optional"),
    "tiger/7b": ("tiger", "CN", "Apache-2.0", "open", "chinese_open", "small", "none"),
    "loup/24b": ("loup", "FR", "Apache-2.0", "open", "other_open", "medium", "none"),
    "unknown": ("unknown",) * 7,
}
ATTRIBUTES = (
    "vendor",
    "vendor_country",
    "license",
    "open_weights",
    "origin",
    "size_class",
    "reasoning",
)
NULLABLE = tuple(field.name for field in arrow_schema() if field.nullable)


def random_rows(
    seed: int, count: int, start: datetime, span: timedelta, *, first_offset: int = 0
) -> list[Row]:
    """Return ``count`` rows spread over ``span``, with about a tenth of the measures unknown."""
    rng = random.Random(seed)
    return [_row(rng, first_offset + at, start + rng.random() * span) for at in range(count)]


def _row(rng: random.Random, offset: int, at: datetime) -> Row:
    model = rng.choices(list(MODELS), weights=[9, 7, 5, 3, 2, 2])[0]
    prompt, completion = rng.randrange(0, 20_000), rng.randrange(0, 4_000)
    row: Row = {
        "event_id": f"synthetic:{offset}:{rng.getrandbits(32):08x}",
        "occurred_at": at.replace(microsecond=at.microsecond // 1000 * 1000),
        "ingested_at": datetime.now(UTC).replace(microsecond=0),
        "kafka_partition": 3,
        "kafka_offset": offset,
        "source": "synthetic",
        "operation": "chat",
        "request_id": "",
        "attempt": 0,
        "model_raw": f"raw-{rng.randrange(3)}" if model == "unknown" else model,
        "model": model,
        "model_requested": "",
        **dict(zip(ATTRIBUTES, MODELS[model], strict=True)),
        "total_params_b": 72.0 if model == "tiger/72b" else None,
        "active_params_b": None,
        "provider": rng.choice(["north", "south", "unknown"]),
        "tokens_prompt": prompt,
        "tokens_completion": completion,
        "tokens_reasoning": completion // 3,
        "tokens_cached": prompt // 4,
        "tokens_cache_write": 0,
        "cost_nanousd": rng.randrange(0, 10**9),
        "cost_source": "gateway",
        "latency_ms": rng.randrange(1, 60_000),
        "ttft_ms": None,
        "finish_reason": rng.choice(["stop", "length", "tool_calls", "other", "unknown"]),
        "finish_reason_native": "",
        "tool_calls": rng.choice([None, 0, 2]),
        "streamed": rng.choice([None, True, False]),
        "cancelled": False,
        "is_byok": None,
        "cache_hit": None,
        "status": rng.choices(["ok", "error", "timeout"], weights=[8, 1, 1])[0],
        "status_code": 200,
        "error_type": "",
        "app_id": rng.choice(["unknown", *(f"app-{n}" for n in range(6))]),
        "user_hash": rng.getrandbits(64),
        "session_hash": None,
        "region": rng.choice(["eu", "us", "ap", "unknown"]),
        "caller_country": rng.choice(["DE", "US", "unknown"]),
        "service_tier": "",
        "category": rng.choice(["unknown", "programming", "roleplay"]),
        "tags": rng.choice(TAGS),
        "quality": "",
    }
    row["tool_use"] = {None: "unknown", 0: "none", 2: "called"}[row["tool_calls"]]
    for name in ("tokens_prompt", "tokens_completion", "tokens_reasoning", "cost_nanousd"):
        if rng.random() < 0.1:
            row[name] = None
    return row


def as_table(rows: Sequence[Row]) -> pa.Table:
    """Return rows as ``UsageEventWriter`` takes them."""
    return pa.Table.from_pylist(list(rows), schema=arrow_schema())


def tokens(row: Row) -> int:
    """Prompt and completion tokens, as shares count them: unknown adds nothing."""
    return (row["tokens_prompt"] or 0) + (row["tokens_completion"] or 0)
