"""The study's market, week by week: tokens of each model and category, so that its numbers come out.

Tokens are fitted by iterative proportional fitting (Deming and Stephan, 1940): authors of open models
have the totals of the study's table, eight models those of its price map, each week its shares by
origin and the open models their shares by size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

from deploy.local.study import tables
from deploy.local.study.tables import CATEGORIES, PROFILES, Entry, Line
from schemas.catalogue import load_shipped
from schemas.model import Model, size_class

Floats = NDArray[np.float64]

# Trillions of tokens, November 2024 to November 2025. Source: the study's table 1, and its price map:
# 10 to the given power of millions.
AUTHORS = {
    "deepseek": 14.37, "alibaba": 5.59, "meta": 3.96, "mistral": 2.92, "openai": 1.65, "minimax": 1.26,
    "z-ai": 1.18, "tng": 1.13, "moonshot-ai": 0.92, "google": 0.82,
}  # fmt: skip
MODELS = {
    "google/gemini-2.0-flash-001": 6.68, "deepseek/deepseek-chat-v3-0324": 6.55,
    "anthropic/claude-3.7-sonnet": 6.87, "anthropic/claude-sonnet-4": 6.84,
    "qwen/qwen-2-7b-instruct": 2.91, "ibm-granite/granite-4.0-h-micro": 2.95, "openai/gpt-4": 3.53,
    "openai/gpt-5-pro": 3.42,
}  # fmt: skip
CHINESE_AUTHORS = ("deepseek", "alibaba", "minimax", "z-ai", "moonshot-ai")
OTHER_AUTHORS_MAX = 0.72
"""Trillions of tokens of an author of open models that is not among the first ten."""
ROUNDS = 300
ELASTICITY = -0.06
"""Per cent of tokens for one per cent of price, over all models."""


@dataclass(frozen=True)
class StudyMarket:
    """Weeks by models by categories.

    Attributes:
        weeks: Their Mondays.
        entries: Models, as in the other arrays.
        tokens: (week, model), shares of the whole; sums to 1.
        uses: (week, model, category), shares of a model's tokens.
        prompt: (week, category), mean tokens of a prompt.
        completion: (week, model), mean tokens of a completion.
        tools: (week, model), part of its tokens whose request ended in a tool call.
        usd: (model, category), paid per million tokens.
        spike: (week, model), tokens of the one account, part of the model's.
    """

    weeks: tuple[date, ...]
    entries: tuple[Entry, ...]
    tokens: Floats
    uses: Floats
    prompt: Floats
    completion: Floats
    tools: Floats
    usd: Floats
    spike: Floats

    @property
    def requests(self) -> Floats:
        """(week, model, category), shares of all requests; sums to 1."""
        length = self.prompt[:, None, :] + self.completion[:, :, None]
        found: Floats = self.tokens[:, :, None] * self.uses / length
        found /= found.sum()
        return found


def line(points: Line, weeks: Floats) -> Floats:
    """Return the values of a line at weeks."""
    x, y = zip(*points, strict=True)
    values: Floats = np.interp(weeks, x, y)
    return values


@cache
def study_market() -> StudyMarket:
    """Return the market, fitted: a second of work."""
    at = np.arange(-tables.LEAD_IN_WEEKS, tables.STUDY_WEEKS, dtype=np.float64)
    weeks = tuple(tables.FIRST_WEEK + timedelta(weeks=int(week)) for week in at)
    groups = (tables.CHINESE, tables.OTHER, tables.PROPRIETARY, tables.CHINESE_CLOSED)
    entries = tuple(entry for group in groups for entry in group)
    group_of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    catalogue = load_shipped()
    models = [catalogue.models[entry.model] for entry in entries]
    uses = np.stack([_uses(entry, at) for entry in entries], axis=1)
    prompt = _prompts(at)
    completion = line(tables.COMPLETION, at)[:, None] * _completion_factors(models, at, entries)
    # Volume follows requests; how many tokens a request has follows what it is for.
    volume = line(tables.REQUESTS, at) * _mean_length(at)
    tokens = _fitted(at, entries, models, group_of, volume)
    tokens, spike = _with_spike(tokens, entries, at)
    return StudyMarket(
        weeks,
        entries,
        tokens,
        uses,
        prompt,
        completion,
        _tools(tokens, entries, at),
        _prices(entries, tokens, uses),
        spike,
    )


def _curve(entry: Entry, at: Floats) -> Floats:
    """Return how much a model is used: it grows within three weeks, then halves again and again."""
    age = at + 1 - entry.start
    grown = np.clip(age, 0, None) / (np.clip(age, 0, None) + 1.5)
    return np.where(age > 0, entry.weight * grown * np.exp2(-age / entry.half_life), 0.0)


def _groups(at: Floats) -> Floats:
    """Return shares of tokens by week and group, with the study's means over its weeks."""
    inside = at >= 0
    chinese = line(tables.CHINESE_OPEN, at)
    low = chinese[inside].min()
    # What is above the lowest week is stretched to the mean of 13.0 %, and not beyond 29 %.
    for _ in range(50):
        chinese = low + (chinese - low) * (0.130 - low) / (chinese[inside].mean() - low)
        chinese = np.minimum(chinese, 0.29)
    other = line(tables.OTHER_OPEN, at)
    other = other * 0.137 / other[inside].mean()
    closed = np.full_like(at, tables.CHINESE_PROPRIETARY)
    return np.stack([chinese, other, 1 - chinese - other - closed, closed], axis=1)


def _fitted(
    at: Floats,
    entries: Sequence[Entry],
    models: Sequence[Model],
    group_of: NDArray[np.int64],
    volume: Floats,
) -> Floats:
    inside = at >= 0
    groups = _groups(at)
    tokens = np.stack([_curve(entry, at) for entry in entries], axis=1)
    sizes = np.array([size_class(model) or "" for model in models])
    is_open = group_of < 2
    small, medium = line(tables.SMALL, at), line(tables.MEDIUM, at)
    by_size = {"small": small, "medium": medium, "large": 1 - small - medium}
    names = [entry.model for entry in entries]
    authors = np.array([model.vendor for model in models])
    # One trillion of the study, in units of `volume`: the Chinese authors have all their group has.
    chinese = float((groups[inside, 0] * volume[inside]).sum())
    trillion = chinese / sum(AUTHORS[author] for author in CHINESE_AUTHORS)
    for _ in range(ROUNDS):
        for size, share in by_size.items():
            columns = is_open & (sizes == size)
            wanted = share * groups[:, :2].sum(axis=1) * volume
            _scale(tokens, columns, wanted, 0.5)
        for author, total in AUTHORS.items():
            columns = is_open & (authors == author)
            tokens[:, columns] *= total * trillion / tokens[np.ix_(inside, columns)].sum()
        for author in set(authors[is_open]) - set(AUTHORS):
            columns = is_open & (authors == author)
            most = OTHER_AUTHORS_MAX * trillion / tokens[np.ix_(inside, columns)].sum()
            tokens[:, columns] *= min(1.0, most)
        for model, power in MODELS.items():
            column = names.index(model)
            tokens[:, column] *= 10**power * 1e-6 * trillion / tokens[inside, column].sum()
        for group in range(groups.shape[1]):
            _scale(tokens, group_of == group, groups[:, group] * volume, 1.0)
    fitted: Floats = tokens / tokens.sum()
    return fitted


def _scale(tokens: Floats, columns: NDArray[np.bool_], wanted: Floats, power: float) -> None:
    """Bring the sum of some columns to what is wanted of each week, or a part of the way."""
    sums = tokens[:, columns].sum(axis=1)
    factor = np.divide(wanted, sums, out=np.ones_like(sums), where=sums > 0)
    tokens[:, columns] *= (factor**power)[:, None]


def _uses(entry: Entry, at: Floats) -> Floats:
    early, late = (np.array(each) / sum(each) for each in PROFILES[entry.profile])
    part = np.clip((at - 26) / (tables.STUDY_WEEKS - 1 - 26), 0, 1)[:, None]
    uses = early * (1 - part) + late * part
    if entry.profile == "xai":
        uses[-1] = np.array(tables.XAI_LAST_WEEK) / sum(tables.XAI_LAST_WEEK)
    programming = uses[:, 0] * line(tables.PROGRAMMING_BEFORE, at)
    others = uses[:, 1:] * ((1 - programming) / (1 - uses[:, 0]))[:, None]
    return np.column_stack([programming, others])


def _prompts(at: Floats) -> Floats:
    other = line(tables.PROMPT_OTHER, at)
    return np.column_stack(
        [line(tables.PROMPT_PROGRAMMING, at), *([other] * (len(CATEGORIES) - 1))]
    )


def _mean_length(at: Floats) -> Floats:
    """Return about how many tokens a request has: what it comes to is known after the fit."""
    return line(((-49, 1_700), (0, 2_800), (55, 6_400)), at)


def _completion_factors(models: Sequence[Model], at: Floats, entries: Sequence[Entry]) -> Floats:
    reasons = np.array([model.reasoning in ("always", "optional") for model in models])
    factors = np.where(reasons, tables.COMPLETION_REASONING, 0.9)
    return np.broadcast_to(factors, (len(at), len(entries)))


def _with_spike(tokens: Floats, entries: Sequence[Entry], at: Floats) -> tuple[Floats, Floats]:
    row = int(np.flatnonzero(at == tables.SPIKE_WEEK)[0])
    column = [entry.model for entry in entries].index(tables.SPIKE_MODEL)
    # The account's tokens take the place of others' of the same origin, so shares by origin stay.
    spike = np.zeros_like(tokens)
    wanted = tables.SPIKE_SHARE * tokens[row].sum()
    spike[row, column] = min(1.0, wanted / tokens[row, column])
    if tokens[row, column] < wanted:
        closed = slice(
            len(tables.CHINESE) + len(tables.OTHER), len(entries) - len(tables.CHINESE_CLOSED)
        )
        rest = tokens[row, closed].sum() - tokens[row, column]
        missing = wanted - tokens[row, column]
        own = tokens[row, column]
        tokens[row, closed] *= 1 - missing / rest
        tokens[row, column] = own + missing
    return tokens, spike


def _tools(tokens: Floats, entries: Sequence[Entry], at: Floats) -> Floats:
    """Return parts of tokens such that those of a week are the line's."""
    relative = np.broadcast_to(np.array([entry.tools for entry in entries]), tokens.shape)
    wanted = line(tables.TOOL_CALLS, at)[:, None]
    mean = (tokens * relative).sum(axis=1, keepdims=True) / tokens.sum(axis=1, keepdims=True)
    found: Floats = np.minimum(wanted * relative / mean, 0.9)
    return found


def _prices(entries: Sequence[Entry], tokens: Floats, uses: Floats) -> Floats:
    """Return prices by model and category: a model's mean is its own, the elasticity is the study's."""
    inside = slice(tables.LEAD_IN_WEEKS, None)
    totals = tokens[inside].sum(axis=0)
    usd = np.array([entry.usd for entry in entries])
    fixed = np.array([entry.model in MODELS for entry in entries])
    y = np.log(totals)
    low, high = -2.0, 2.0
    for _ in range(60):
        tilt = (low + high) / 2
        tilted = np.where(fixed, usd, usd * np.exp(tilt * (y - y.mean())))
        slope = np.polyfit(np.log(tilted), y, 1)[0]
        low, high = (tilt, high) if slope < ELASTICITY else (low, tilt)
    dearness = np.array([tables.DEARNESS[category] for category in CATEGORIES])
    mix = np.einsum("wm,wmc->mc", tokens[inside], uses[inside]) / totals[:, None]
    found: Floats = tilted[:, None] * dearness / (mix @ dearness)[:, None]
    return found
