"""What is asked for: models with their shares, lengths, prices and hosts."""

import math
import zlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from deploy.local.published import PublishedDay
from deploy.local.simulator.seasons import DAY_MS, DRIFT_WAVES, Floats, Int64s, drift
from schemas.catalogue import Catalogue, Model, Resolution, price_at
from schemas.model import FREE_VARIANT, UNPRICED_VARIANTS

# Lengths. Source of the means: OpenRouter's public feed of October 2026, 583.15 T tokens in
# 26.85 B requests = 21,700 a request; input to output about 15 to 1, three times more for models
# that reason (State of AI, 2025). Spread and correlation are ours: heavy tails, as in Azure's traces.
PROMPT_SIGMA, COMPLETION_SIGMA, CORRELATION = 1.3, 1.0, 0.35
PROMPT_MAX, COMPLETION_MAX = 1_000_000, 100_000
_MEAN_PROMPT_TOOLS, _MEAN_PROMPT, _MEAN_COMPLETION, _REASONING_FACTOR = 22_000, 5_000, 420, 2.5

# Growth and decay of a model after its release, in the world `catalogue`.
_RAMP_DAYS, _HALF_LIFE_DAYS = 10.0, 240.0

_HOSTS = (
    "deepinfra",
    "fireworks",
    "together",
    "novita",
    "parasail",
    "nebius",
    "groq",
    "siliconflow",
)
_CLOUDS = {"anthropic": "amazon-bedrock", "openai": "azure", "google": "google-vertex"}

UNKNOWN_NAMES = tuple(f"acme/unreleased-{letter}" for letter in "abcdefgh")
UNKNOWN_PRICE = -1


@dataclass(frozen=True)
class World:
    """Models under the names that gateways send, one row each.

    The last rows are ``UNKNOWN_NAMES`` with share 0: the fault ``unknown_model`` draws from them.

    Attributes:
        names: As sent (``model_raw``).
        token_share: Share of tokens without seasons and drift; sums to 1.
        mean_tokens: Expected tokens of a request.
        prompt_mu, completion_mu: Of the lognormal lengths; completions of ``-inf`` are 0 long.
        reasoning: Probability that a request reasons.
        tools: Whether the model calls tools.
        prompt_price, completion_price: Pico-USD per token, ``UNKNOWN_PRICE`` without one.
        released_ms: Release, epoch milliseconds; 0 in a world without ramps.
        text: Part of an event by model and host: name, host, operation.
        host_first, host_count: Rows of ``text`` of a model.
        phases: Of the drift.
        drift_scale: Standard deviation of the logarithm of a share by drift; 0 is no drift.
    """

    names: tuple[str, ...]
    token_share: Floats
    mean_tokens: Floats
    prompt_mu: Floats
    completion_mu: Floats
    reasoning: Floats
    tools: NDArray[np.bool_]
    prompt_price: Int64s
    completion_price: Int64s
    released_ms: Int64s
    text: pl.Series
    host_first: Int64s
    host_count: Int64s
    phases: Floats
    drift_scale: float

    def request_shares(self, times_ms: Int64s, reference_ms: int) -> Floats:
        """Return the share of requests of every model (columns) at every time (rows).

        At ``reference_ms`` the drift is nil: token shares are ``token_share`` then.
        """
        weights = np.broadcast_to(
            self.token_share / self.mean_tokens, (len(times_ms), len(self.names))
        )
        if self.drift_scale:
            reference = drift(np.array([reference_ms]), self.phases)
            weights = weights * np.exp(
                self.drift_scale * (drift(times_ms, self.phases) - reference)
            )
        if self.released_ms.any():
            age_days = (times_ms[:, None] - self.released_ms) / DAY_MS
            grown = 1 - np.exp(-np.maximum(age_days, 0.0) / _RAMP_DAYS)
            weights = weights * grown * np.exp2(-np.maximum(age_days, 0.0) / _HALF_LIFE_DAYS)
        shares: Floats = weights / weights.sum(axis=1, keepdims=True)
        return shares

    def priced(self, catalogue: Catalogue, as_of_ms: int) -> "World":
        """Return the same world with the list prices of that moment."""
        found = [catalogue.resolve(name) for name in self.names]
        prices = np.array([_price(each, as_of_ms) for each in found], np.int64)
        return replace(self, prompt_price=prices[:, 0], completion_price=prices[:, 1])


def openrouter_world(
    days: list[PublishedDay], catalogue: Catalogue, *, seed: int, drift_scale: float
) -> World:
    """Return the market of OpenRouter's last published day.

    ``other``, everything outside the top 50, keeps that name, which resolves to no model: it is
    honest about what was not published. Names of earlier days are known, with share 0.
    """
    last = days[-1]
    shares = dict(zip(last.models, last.tokens, strict=True))
    names = sorted({name for day in days for name in day.models})
    return _world(
        names,
        np.array([shares.get(name, 0) for name in names], np.float64),
        catalogue,
        as_of_ms=last.start_ms,
        seed=seed,
        drift_scale=drift_scale,
        ramps=False,
    )


def catalogue_world(catalogue: Catalogue, *, seed: int, as_of_ms: int, drift_scale: float) -> World:
    """Return an invented market of every released model of the catalogue.

    Shares are heavy-tailed, grow after a model's release and decay slowly. A third of the traffic
    of a model comes under an alias, if it has one.
    """
    rng = np.random.default_rng([seed, 3])
    names: list[str] = []
    shares: list[float] = []
    for _, model in sorted(catalogue.models.items()):
        if model.release_date is None:
            continue
        share = math.exp(rng.normal(0, 1.6))
        alias = model.aliases[int(rng.integers(len(model.aliases)))] if model.aliases else None
        names += [model.model_id] if alias is None else [model.model_id, alias]
        shares += [share] if alias is None else [share * 2 / 3, share / 3]
    return _world(
        names,
        np.array(shares),
        catalogue,
        as_of_ms=as_of_ms,
        seed=seed,
        drift_scale=drift_scale,
        ramps=True,
    )


def _world(
    names: list[str],
    shares: Floats,
    catalogue: Catalogue,
    *,
    as_of_ms: int,
    seed: int,
    drift_scale: float,
    ramps: bool,
) -> World:
    found = [catalogue.resolve(name) for name in names] + [None] * len(UNKNOWN_NAMES)
    names = [*names, *UNKNOWN_NAMES]
    models = [each.model if each else None for each in found]
    lengths = [_mean_lengths(name, model) for name, model in zip(names, models, strict=True)]
    prompt_mu = np.array([_mu(mean, PROMPT_SIGMA) for mean, _ in lengths])
    completion_mu = np.array([_mu(mean, COMPLETION_SIGMA) for _, mean in lengths])
    prices = np.array([_price(each, as_of_ms) for each in found], np.int64)
    texts = [_texts(name, model) for name, model in zip(names, models, strict=True)]
    counts = np.array([len(text) for text in texts])
    phases = [np.random.default_rng([seed, _number_of(name)]).random(DRIFT_WAVES) for name in names]
    released = [_released_ms(model) if ramps else 0 for model in models]
    return World(
        names=tuple(names),
        token_share=np.concatenate([shares / shares.sum(), np.zeros(len(UNKNOWN_NAMES))]),
        mean_tokens=np.array(
            [
                _clipped_mean(prompt, PROMPT_SIGMA, PROMPT_MAX)
                + _clipped_mean(completion, COMPLETION_SIGMA, COMPLETION_MAX)
                for prompt, completion in zip(prompt_mu, completion_mu, strict=True)
            ]
        ),
        prompt_mu=prompt_mu,
        completion_mu=completion_mu,
        reasoning=np.array([_reasoning(model) for model in models]),
        tools=np.array([bool(model and model.tool_calling) for model in models]),
        prompt_price=prices[:, 0],
        completion_price=prices[:, 1],
        released_ms=np.array(released, np.int64),
        text=pl.Series([text for host_texts in texts for text in host_texts]),
        host_first=np.concatenate([[0], np.cumsum(counts)[:-1]]),
        host_count=counts,
        phases=np.array(phases),
        drift_scale=drift_scale,
    )


def _number_of(name: str) -> int:
    return zlib.crc32(name.encode())


def _makes_no_text(name: str) -> bool:
    """Tell embedding models, by the names the published ranking has: their requests make no tokens."""
    return "embed" in name or name.startswith("baai/bge")


def _mean_lengths(name: str, model: Model | None) -> tuple[float, float]:
    rng = np.random.default_rng(_number_of(name))
    prompt = _MEAN_PROMPT_TOOLS if model is None or model.tool_calling else _MEAN_PROMPT
    completion = _MEAN_COMPLETION * (_REASONING_FACTOR if _reasoning(model) else 1.0)
    if _makes_no_text(name):
        return 600.0, 0.0
    return prompt * math.exp(rng.normal(0, 0.4)), completion * math.exp(rng.normal(0, 0.3))


def _reasoning(model: Model | None) -> float:
    return {"always": 1.0, "optional": 0.6}.get(model.reasoning or "", 0.0) if model else 0.0


def _mu(mean: float, sigma: float) -> float:
    return math.log(mean) - sigma * sigma / 2 if mean else -math.inf


def _clipped_mean(mu: float, sigma: float, most: int) -> float:
    """Return the mean of ``min(X, most)`` for a lognormal X."""
    if mu == -math.inf:
        return 0.0
    far = (math.log(most) - mu) / sigma
    below = math.exp(mu + sigma * sigma / 2) * _normal_cdf(far - sigma)
    return below + most * (1 - _normal_cdf(far))


def _normal_cdf(x: float) -> float:
    return (1 + math.erf(x / math.sqrt(2))) / 2


def _released_ms(model: Model | None) -> int:
    if model is None or model.release_date is None:
        return 0
    return int(datetime.fromisoformat(model.release_date).replace(tzinfo=UTC).timestamp()) * 1000


def _price(found: Resolution | None, as_of_ms: int) -> tuple[int, int]:
    if found is None or found.variant in UNPRICED_VARIANTS:
        return UNKNOWN_PRICE, UNKNOWN_PRICE
    if found.variant == FREE_VARIANT:
        return 0, 0
    price = price_at(found.model, as_of_ms)
    if price is None:
        return UNKNOWN_PRICE, UNKNOWN_PRICE
    return price.prompt_picousd_per_token, price.completion_picousd_per_token


def _texts(name: str, model: Model | None) -> list[str]:
    operation = ',"operation":"embeddings"' if _makes_no_text(name) else ""
    start = f'{operation},"model_raw":{orjson.dumps(name).decode()}'
    return [f'{start},"provider":"{host}"' for host in _hosts(name, model)] or [start]


def _hosts(name: str, model: Model | None) -> list[str]:
    """Return who serves the model, the most used first; nobody we know of for an unknown model."""
    if model is None or not model.vendor:
        return []
    clouds = [_CLOUDS[model.vendor]] if model.vendor in _CLOUDS else []
    if not model.open_weights:
        return [model.vendor, *clouds]
    rng = np.random.default_rng([_number_of(name), 1])
    hosts = [str(host) for host in rng.choice(_HOSTS, int(rng.integers(1, 4)), replace=False)]
    return [model.vendor, *hosts]
