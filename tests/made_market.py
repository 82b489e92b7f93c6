"""A small market made up for tests: requests by vendor, as closed windows and as stored events."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from schemas.panes import MEASURES
from streams.detection import BIN_MS
from tests.usage_rows import Row, random_rows

DIMENSIONS = ("vendor", "model", "vendor_region", "origin", "provider")
SHARES = {"acme": 0.4, "tiger": 0.35, "loup": 0.25}
ORIGINS = {"acme": "proprietary", "tiger": "chinese_open", "loup": "other_open"}
REGIONS, PROVIDERS = ("eu", "us"), ("north", "south")
TOKENS = 1000
"""Mean tokens of a request."""


@dataclass(frozen=True)
class Request:
    """What of a request the windows count."""

    vendor: str
    region: str
    provider: str
    tokens: int
    is_error: bool = False
    name: str = "large"
    """Of the model, behind its vendor."""

    def value(self, dimension: str) -> str:
        return {
            "vendor": self.vendor,
            "model": f"{self.vendor}/{self.name}",
            "vendor_region": f"{self.vendor}|{self.region}",
            "origin": ORIGINS[self.vendor],
            "provider": self.provider,
        }[dimension]


def make_requests(
    rng: np.random.Generator, count: int, shares: Mapping[str, float] = SHARES
) -> list[Request]:
    """Return about ``count`` requests."""
    size = int(rng.poisson(count))
    weights = np.array(list(shares.values()))
    vendors = rng.choice(list(shares), size, p=weights / weights.sum())
    tokens = rng.lognormal(np.log(TOKENS) - 0.5, 1.0, size).astype(int) + 1
    regions, providers = rng.choice(REGIONS, size), rng.choice(PROVIDERS, size)
    return [
        Request(str(vendor), str(region), str(provider), int(each))
        for vendor, region, provider, each in zip(vendors, regions, providers, tokens, strict=True)
    ]


def windows(
    requests: Sequence[Request], end_ms: int, *, window_seconds: int = BIN_MS // 1000
) -> list[dict[str, Any]]:
    """Return the closed windows of requests, one per dimension, as they are published."""
    return [_window(requests, dimension, end_ms, window_seconds) for dimension in DIMENSIONS]


def _window(
    requests: Sequence[Request], dimension: str, end_ms: int, window_seconds: int
) -> dict[str, Any]:
    by_value: dict[str, list[Request]] = defaultdict(list)
    for request in requests:
        by_value[request.value(dimension)].append(request)
    values = sorted(by_value)
    tokens = [sum(each.tokens for each in by_value[value]) for value in values]
    capped = {value: [min(each.tokens, 8 * TOKENS) for each in by_value[value]] for value in values}
    zeros = [0] * len(values)
    columns = dict.fromkeys(MEASURES, zeros) | {
        "requests": [len(by_value[value]) for value in values],
        "tokens_prompt": tokens,
        "errors": [sum(each.is_error for each in by_value[value]) for value in values],
        "tokens_capped": [sum(capped[value]) for value in values],
        "tokens_capped_squared": [sum(each * each for each in capped[value]) for value in values],
    }
    billionths = {
        f"{prefix}_{name}_billionths": zeros if prefix == "share" else []
        for prefix in ("share", "previous")
        for name in ("requests", "tokens", "cost")
    }
    return {
        "version": 1,
        "dimension": dimension,
        "window_seconds": window_seconds,
        "window_end_ms": end_ms,
        "revision": 0,
        "is_complete": True,
        "watermark_ms": end_ms,
        "given_ms": end_ms,
        "requests_total": len(requests),
        "tokens_total": sum(tokens),
        "cost_nanousd_total": 0,
        "values": values,
        **columns,
        "users": [min(len(by_value[value]), 50) for value in values],
        **billionths,
    }


def rows(requests: Sequence[Request], end_ms: int, first_offset: int) -> list[Row]:
    """Return requests as rows of usage_events in the five minutes before an end."""
    start = datetime.fromtimestamp((end_ms - BIN_MS) / 1000, UTC)
    base = random_rows(
        first_offset, len(requests), start, timedelta(seconds=299), first_offset=first_offset
    )
    return [
        {
            **row,
            "model": request.value("model"),
            "model_raw": request.value("model"),
            "vendor": request.vendor,
            "origin": ORIGINS[request.vendor],
            "region": request.region,
            "provider": request.provider,
            "tokens_prompt": request.tokens,
            "tokens_completion": 0,
            "tokens_reasoning": 0,
            "status": "error" if request.is_error else "ok",
        }
        for row, request in zip(base, requests, strict=True)
    ]
