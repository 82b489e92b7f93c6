"""OpenRouter's published days as per-request events whose tokens add up to what was published.

Published tokens are divided by one whole number, the divisor, chosen so that a request has the mean
length OpenRouter reports. Each day's total is rounded once, then given to its models, and each
model's to its requests, by largest remainders: nothing is lost. What a single request looks like
(session, host, lengths, times) is simulated, so every event says ``source: synthetic``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from deploy.local.published import OPENROUTER_CREDIT, PublishedDay
from deploy.local.simulator.blocks import BLOCK_EVENTS, Block, facts_of, framed
from deploy.local.simulator.population import Population, zones
from deploy.local.simulator.render import render
from deploy.local.simulator.requests import Draw
from deploy.local.simulator.seasons import DAY_MS, Calendar, Floats, Int64s
from deploy.local.simulator.world import World
from schemas.catalogue import Catalogue
from schemas.errors import ConfigurationError

# Source: OpenRouter's public feed, October 2026: 583.15 T tokens in 26.85 B requests.
_MEAN_TOKENS_PER_REQUEST = 21_700
EVENTS_PER_DAY_MIN, EVENTS_PER_DAY_MAX = 1_000, 2_000_000
# Of the heavy-tailed lengths within a model's day, and their bounds as a multiple of the mean.
_SIGMA, _SHORTEST, _LONGEST = 1.2, 0.02, 50.0
# Limits of the event schema.
_PROMPT_MAX, _COMPLETION_MAX = 50_000_000, 10_000_000


@dataclass(frozen=True)
class Replay:
    """A replay of all published days, or of the last ones; a day's events do not depend on which.

    Attributes:
        days: All published days, oldest first.
        events_per_day: Events of each day, exactly.
    """

    days: list[PublishedDay]
    events_per_day: int
    world: World
    population: Population
    catalogue: Catalogue

    @property
    def divisor(self) -> int:
        """Published tokens per replayed token."""
        published = sum(sum(day.tokens) for day in self.days)
        events = self.events_per_day * len(self.days)
        return max(1, round(published / (events * _MEAN_TOKENS_PER_REQUEST)))

    @property
    def id_prefix(self) -> str:
        return f"synthetic:openrouter-2026-{self.events_per_day}-"

    @property
    def end_number(self) -> int:
        """Return the number after the last event."""
        return len(self.days) * self.events_per_day

    def first_number(self, last_days: int) -> int:
        """Return the number of the first event of the last days."""
        return (len(self.days) - last_days) * self.events_per_day

    def blocks(self, from_number: int) -> Iterator[tuple[int, Block]]:
        """Yield first number and events of each block, in order of time.

        Args:
            from_number: Blocks that end at or before this number are left out.
        """
        for index in range(from_number // self.events_per_day, len(self.days)):
            for first, block in self._day_blocks(index):
                if first + len(block.values) > from_number:
                    yield first, block

    def summary(self, last_days: int) -> dict[str, Any]:
        """Return what is replayed, and by which factor."""
        chosen = self.days[len(self.days) - last_days :]
        return {
            "replay": "openrouter-2026",
            "credit": OPENROUTER_CREDIT,
            "from": chosen[0].date,
            "to": chosen[-1].date,
            "days": last_days,
            "events_per_day": self.events_per_day,
            "divisor": self.divisor,
            "factor": 1 / self.divisor,
            "published_tokens": sum(sum(day.tokens) for day in chosen),
            "replayed_tokens": sum(sum(scaled_tokens(day, self.divisor)) for day in chosen),
        }

    def _day_blocks(self, index: int) -> Iterator[tuple[int, Block]]:
        day = self.days[index]
        rng = np.random.default_rng([self.events_per_day, index])
        draw = self._draw(day, rng)
        world = self.world.priced(self.catalogue, day.start_ms)
        calendar = Calendar(day.start_ms, day.start_ms + DAY_MS, zones())
        count = self.events_per_day
        times_ms = calendar.times_ms((np.arange(count) + rng.random(count)) / count)
        for start in range(0, count, BLOCK_EVENTS):
            rows = slice(start, min(start + BLOCK_EVENTS, count))
            part = Draw(draw.model[rows], draw.tokens_prompt[rows], draw.tokens_completion[rows])
            first = index * count + start
            yield first, self._block(world, first, part, times_ms[rows])

    def _draw(self, day: PublishedDay, rng: np.random.Generator) -> Draw:
        """Return models and tokens of all the day's requests, shuffled."""
        row_of = {name: row for row, name in enumerate(self.world.names)}
        rows = np.array([row_of[name] for name in day.models])
        tokens = scaled_tokens(day, self.divisor)
        asked = np.array(tokens) / self.world.mean_tokens[rows]
        counts = _event_counts(asked, self.events_per_day)
        total = np.concatenate(
            [_split(sum_, count, rng) for sum_, count in zip(tokens, counts, strict=True)]
        )
        model = np.repeat(rows, counts)
        completion = self._completions(model, total, rng)
        shuffled = rng.permutation(len(model))
        draw = Draw(model[shuffled], (total - completion)[shuffled], completion[shuffled])
        if draw.tokens_prompt.max() > _PROMPT_MAX or completion.max() > _COMPLETION_MAX:
            raise ConfigurationError("events-per-day too small: an event exceeds the token limits")
        return draw

    def _completions(self, model: Int64s, total: Int64s, rng: np.random.Generator) -> Int64s:
        usual = np.exp(self.world.completion_mu) / (
            np.exp(self.world.completion_mu) + np.exp(self.world.prompt_mu)
        )
        noise = np.exp(0.5 * rng.standard_normal(len(total)))
        share = np.minimum(usual[model] * noise, 0.9)
        completions: Int64s = (total * share).astype(np.int64)
        return completions

    def _block(self, world: World, first: int, draw: Draw, times_ms: Int64s) -> Block:
        rng = np.random.default_rng([self.events_per_day, first, 1])
        numbers = np.arange(first, first + len(times_ms))
        sessions = self.population.choose(numbers, times_ms, rng)
        frame = framed(world, sessions, draw, numbers, times_ms, rng, all_ok=True)
        return Block(
            values=render(frame, self.id_prefix),
            keys=sessions.keys,
            key_hashes=sessions.key_hashes,
            facts=facts_of(frame),
            times_ms=times_ms,
        )


def scaled_tokens(day: PublishedDay, divisor: int) -> list[int]:
    """Return the day's tokens divided by ``divisor``, aligned with its models.

    They add up to the rounded day total; no model is off by one token or more.
    """
    published = sum(day.tokens)
    return _apportion(round(Fraction(published, divisor)), day.tokens)


def _apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split ``total`` by largest remainders: whole numbers, exact sum, ties to the earlier."""
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda place: -remainders[place])
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def _event_counts(asked: Floats, events: int) -> list[int]:
    """Return the events of each model: at least one, the rest by demand."""
    demand = [int(share * 2**40) for share in asked / asked.sum()]
    return [1 + more for more in _apportion(events - len(demand), demand)]


def _split(total: int, count: int, rng: np.random.Generator) -> Int64s:
    """Return ``count`` heavy-tailed whole numbers that add up to ``total``."""
    weights = np.exp(_SIGMA * rng.standard_normal(count) - _SIGMA**2 / 2)
    weights = np.clip(weights, _SHORTEST, _LONGEST)
    ends = np.cumsum(weights)
    marks = (ends / ends[-1] * total).astype(np.int64)
    marks[-1] = total
    parts: Int64s = np.diff(marks, prepend=0)
    return parts
