"""One block of requests as columns: who asked which model for how much, and how it went."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from deploy.local.published import task_tags
from deploy.local.simulator.population import GATEWAYS, Sessions
from deploy.local.simulator.seasons import HOUR_MS, Floats, Int64s
from deploy.local.simulator.world import (
    COMPLETION_MAX,
    COMPLETION_SIGMA,
    CORRELATION,
    PROMPT_MAX,
    PROMPT_SIGMA,
    UNKNOWN_PRICE,
    World,
)

# Sessions stay with their model for this share of their requests.
_LOYALTY = 0.7
# Shares are constant within a slice of a block's time.
_SLICES_MAX = 48
_SLICE_MS_MIN = HOUR_MS // 4

STATUSES = ("ok", "error", "rate_limited", "timeout", "cancelled")
_STATUS_SHARES = (0.968, 0.012, 0.009, 0.003, 0.008)
_OK, _ERROR, _RATE_LIMITED, _TIMEOUT, _CANCELLED = range(5)
FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "error", "cancelled")
_STOP, _LENGTH, _TOOLS, _FILTER, _FINISH_ERROR, _FINISH_CANCELLED = range(6)
# Share of the requests that OpenRouter classified (State of AI, 2025).
_CATEGORY_SAMPLE = 0.0025
_CACHED_PRICE_DIVISOR = 4
_COST_NANOUSD_MAX = 10**12
_LATENCY_MS_MAX = 86_400_000


@dataclass(frozen=True)
class Draw:
    """Model (row of the world) and tokens of each request."""

    model: Int64s
    tokens_prompt: Int64s
    tokens_completion: Int64s


def draw_requests(
    world: World, sessions: Sessions, times_ms: Int64s, reference_ms: int, rng: np.random.Generator
) -> Draw:
    """Return requests by the world's shares at those times, sorted times first to last."""
    count = len(times_ms)
    places = np.where(rng.random(count) < _LOYALTY, sessions.taste, rng.random(count))
    model = _models_at(world, times_ms, reference_ms, places)
    shared, own = rng.standard_normal(count), rng.standard_normal(count)
    prompt = np.exp(world.prompt_mu[model] + PROMPT_SIGMA * shared)
    mixed = CORRELATION * shared + np.sqrt(1 - CORRELATION**2) * own
    completion = np.exp(world.completion_mu[model] + COMPLETION_SIGMA * mixed)
    return Draw(
        model,
        np.clip(prompt, 1, PROMPT_MAX).astype(np.int64),
        np.minimum(completion, COMPLETION_MAX).astype(np.int64),
    )


def _models_at(world: World, times_ms: Int64s, reference_ms: int, places: Floats) -> Int64s:
    first, last = int(times_ms[0]), int(times_ms[-1])
    slice_ms = max(_SLICE_MS_MIN, (last - first) // _SLICES_MAX + 1)
    slices, members = np.unique((times_ms - first) // slice_ms, return_inverse=True)
    shares = world.request_shares(first + slices * slice_ms + slice_ms // 2, reference_ms)
    # One long line of cumulative shares: slice k covers k to k + 1.
    line = (np.cumsum(shares, axis=1) + np.arange(len(slices))[:, None]).ravel()
    found = np.searchsorted(line, places + members, side="right")
    row = found - members * len(world.names)
    # Rounding may leave a cumulative share a hair below 1: the last real model takes that hair.
    last_real = int(np.flatnonzero(world.token_share)[-1])
    models: Int64s = np.clip(row, 0, last_real)
    return models


def describe(
    world: World, sessions: Sessions, draw: Draw, rng: np.random.Generator, *, all_ok: bool
) -> pl.DataFrame:
    """Return everything but number and time, one row per request; null where a gateway is silent.

    Args:
        all_ok: Every request succeeded and its tokens are known.
    """
    count = len(draw.model)
    status = np.zeros(count, np.int64) if all_ok else rng.choice(5, count, p=_STATUS_SHARES)
    # An aborted stream may or may not carry its usage; a refused request never has any.
    known = (status == _OK) | ((status == _CANCELLED) & (rng.random(count) < 0.5))
    finish = _finish_reasons(world, draw, status, rng)
    gateway = sessions.gateway
    cached = _cached(draw, rng)
    reasons = rng.random(count) < world.reasoning[draw.model]
    reasoning = (draw.tokens_completion * rng.uniform(0.2, 0.9, count) * reasons).astype(np.int64)
    streamed = rng.random(count) < 0.7
    ttft_ms, latency_ms = _times(draw, status, rng)
    cost = _cost_nanousd(world, draw, cached)
    host = (world.host_count[draw.model] * rng.random(count) ** 2).astype(np.int64)
    called = rng.geometric(0.6, count)
    return pl.DataFrame(
        {
            "model": draw.model,
            "model_text": world.text.gather(world.host_first[draw.model] + host),
            "session_text": sessions.text,
            "tokens_prompt": draw.tokens_prompt,
            "tokens_completion": draw.tokens_completion,
            "tokens_reasoning": reasoning,
            "tokens_cached": cached,
            "cost_nanousd": cost,
            "latency_ms": latency_ms,
            "ttft_ms": ttft_ms,
            "tool_calls": np.where(finish == _TOOLS, called, 0),
            "finish": finish,
            "status": status,
            "streamed": streamed,
            "category": _categories(rng, count),
            "known": known,
            "reports_reasoning": world.reasoning[draw.model] > 0,
            "reports_cached": _GIVES_CACHED[gateway],
            "reports_cost": _GIVES_COST[gateway] & (cost != UNKNOWN_PRICE),
            "reports_tools": _GIVES_TOOLS[gateway] & world.tools[draw.model],
        }
    ).with_columns(
        _only_if("tokens_prompt", pl.col("known")),
        _only_if("tokens_completion", pl.col("known")),
        _only_if("tokens_reasoning", pl.col("known") & pl.col("reports_reasoning")),
        _only_if("tokens_cached", pl.col("known") & pl.col("reports_cached")),
        _only_if("cost_nanousd", pl.col("known") & pl.col("reports_cost")),
        _only_if("tool_calls", pl.col("known") & pl.col("reports_tools")),
        _only_if("ttft_ms", pl.col("streamed") & (pl.col("status") == _OK)),
        _only_if("category", pl.col("category") >= 0),
    )


def _only_if(column: str, condition: pl.Expr) -> pl.Expr:
    return pl.when(condition).then(pl.col(column)).alias(column)


def _finish_reasons(world: World, draw: Draw, status: Int64s, rng: np.random.Generator) -> Int64s:
    place = rng.random(len(status))
    finish = np.select(
        [place < 0.003, place < 0.05, (place < 0.33) & world.tools[draw.model]],
        [_FILTER, _LENGTH, _TOOLS],
        _STOP,
    )
    return np.where(
        status == _OK, finish, np.where(status == _CANCELLED, _FINISH_CANCELLED, _FINISH_ERROR)
    )


def _cached(draw: Draw, rng: np.random.Generator) -> Int64s:
    """Return how much of each prompt came from a cache: long prompts only, half of them."""
    count = len(draw.model)
    hit = (rng.random(count) < 0.55) & (draw.tokens_prompt > 1024)
    return np.where(hit, draw.tokens_prompt * rng.uniform(0.3, 0.98, count), 0).astype(np.int64)


def _times(draw: Draw, status: Int64s, rng: np.random.Generator) -> tuple[Int64s, Int64s]:
    """Return time to the first token and latency: 3 ms per 100 prompt tokens, about 60 tokens/s."""
    count = len(status)
    ttft = np.exp(6.0 + 0.6 * rng.standard_normal(count)) + draw.tokens_prompt * 0.03
    writing = draw.tokens_completion * 1000 / np.exp(4.1 + 0.4 * rng.standard_normal(count))
    latency = np.where(status == _TIMEOUT, 60_000, np.where(status == _OK, ttft + writing, ttft))
    return ttft.astype(np.int64), np.minimum(latency, _LATENCY_MS_MAX).astype(np.int64)


def _cost_nanousd(world: World, draw: Draw, cached: Int64s) -> Int64s:
    """Return what a gateway would bill; cached tokens cost a quarter, an unknown price is -1."""
    prompt_price = world.prompt_price[draw.model]
    fresh = (draw.tokens_prompt - cached) * prompt_price
    reread = cached * prompt_price // _CACHED_PRICE_DIVISOR
    written = draw.tokens_completion * world.completion_price[draw.model]
    cost = np.minimum((fresh + reread + written + 500) // 1000, _COST_NANOUSD_MAX)
    return np.where(prompt_price == UNKNOWN_PRICE, UNKNOWN_PRICE, cost)


def _categories(rng: np.random.Generator, count: int) -> Int64s:
    """Return the row of the task tag of the few requests that were classified, else -1."""
    tag = np.searchsorted(_TAG_CUMULATIVE, rng.random(count)).clip(0, len(TAGS) - 1)
    return np.where(rng.random(count) < _CATEGORY_SAMPLE, tag, -1)


TAGS, _TAG_SHARES = task_tags()
_TAG_CUMULATIVE = np.cumsum(np.array(_TAG_SHARES) / sum(_TAG_SHARES))
_GIVES_COST = np.array([gateway.cost for gateway in GATEWAYS])
_GIVES_CACHED = np.array([gateway.cached for gateway in GATEWAYS])
_GIVES_TOOLS = np.array([gateway.tool_calls for gateway in GATEWAYS])
