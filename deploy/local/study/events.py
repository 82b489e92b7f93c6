"""The study's market as requests, in order of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from deploy.local.simulator.blocks import BLOCK_EVENTS, Block
from deploy.local.simulator.partitions import murmur2
from deploy.local.simulator.render import time_texts
from deploy.local.simulator.seasons import DAY_MS, Floats, Int64s
from deploy.local.study import tables
from deploy.local.study.market import StudyMarket, line, study_market
from deploy.local.study.tables import CATEGORIES, DIP, DIP_PROFILE, DIP_WEEK, SUBCATEGORIES
from deploy.local.study.users import REST, Users
from schemas.catalogue import load_shipped

EVENTS_MIN = 10_000
WEEK_MS = 7 * DAY_MS
# Of lengths around their means: heavy enough to be real, light enough to come out.
SIGMA = 0.7
PROMPT_MAX, COMPLETION_MAX = 2_000_000, 200_000
NANOUSD_PER_TOKEN = 1_000
"""For one USD per million tokens."""
TOP_USER = f"00000000000000a1{REST}"
"""The account of May 2025."""


@dataclass(frozen=True)
class Study:
    """A number of requests of the study's market.

    Attributes:
        events: So many in all weeks, about.
    """

    events: int

    @cached_property
    def market(self) -> StudyMarket:
        return study_market()

    @property
    def names(self) -> tuple[str, ...]:
        """Models by row."""
        return tuple(entry.model for entry in self.market.entries)

    @cached_property
    def counts(self) -> list[int]:
        """Requests of each week, by largest remainders."""
        asked = self.market.requests.sum(axis=(1, 2)) * self.events
        whole = np.floor(asked).astype(np.int64)
        most = np.argsort(whole - asked)[: self.events - int(whole.sum())]
        whole[most] += 1
        return [int(count) for count in whole]

    def summary(self) -> dict[str, Any]:
        """Return what is sent."""
        return {
            "replay": "study",
            "about": "an invented market in which the numbers of OpenRouter's and a16z's State of AI"
            " (2025) hold",
            "from": str(self.market.weeks[0]),
            "to": str(self.market.weeks[-1] + timedelta(days=6)),
            "events": self.events,
        }

    def blocks(self) -> Iterator[Block]:
        """Yield all requests, block by block."""
        maker = _Maker(self)
        first = 0
        for week, count in enumerate(self.counts):
            yield from maker.week(week, count, first)
            first += count


class _Maker:
    """Draws and renders the requests of one week after the other."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._market = market = study.market
        self._at = np.arange(len(market.weeks)) - tables.LEAD_IN_WEEKS
        models = load_shipped().models
        self._model_texts = pl.Series(
            [
                f'","model_raw":"{entry.model}","provider":"{models[entry.model].vendor}"'
                for entry in market.entries
            ]
        )
        self._category_texts = pl.Series([f',"category":"{name}"' for name in CATEGORIES])
        self._reasons = np.array(
            [models[name].reasoning in ("always", "optional") for name in study.names]
        )
        self._dips = np.array([entry.profile == DIP_PROFILE for entry in market.entries])
        self._places = _Places()
        months = sorted({str(_day(week, day))[:7] for week in market.weeks for day in range(7)})
        monthly = np.zeros((len(months), len(market.entries)))
        per_week = market.requests.sum(axis=2) * study.events
        for week, monday in enumerate(market.weeks):
            for day in range(7):
                monthly[months.index(str(_day(monday, day))[:7])] += per_week[week] / 7
        self._users = Users(study.names, monthly, months)

    def week(self, week: int, count: int, first: int) -> Iterator[Block]:
        """Yield a week's blocks."""
        rng = np.random.default_rng([self._study.events, week])
        cells = self._market.requests[week].ravel()
        ends = np.cumsum(cells) / cells.sum()
        # One request in each part of the line: sums come out nearer than by pure chance.
        places = (np.arange(count) + rng.random(count)) / max(count, 1)
        cell = rng.permutation(np.searchsorted(ends, places, side="right").clip(0, len(ends) - 1))
        monday = datetime.combine(self._market.weeks[week], datetime.min.time(), UTC)
        start_ms = round(monday.timestamp() * 1000)
        times_ms = start_ms + np.sort((rng.random(count) * WEEK_MS).astype(np.int64))
        for start in range(0, count, BLOCK_EVENTS):
            rows = slice(start, min(start + BLOCK_EVENTS, count))
            yield self._block(week, first + start, cell[rows], times_ms[rows], rng)

    def _block(
        self, week: int, first: int, cell: Int64s, times_ms: Int64s, rng: np.random.Generator
    ) -> Block:
        market, count = self._market, len(cell)
        model, category = cell // len(CATEGORIES), cell % len(CATEGORIES)
        prompt = _lengths(market.prompt[week, category], PROMPT_MAX, rng)
        completion = _lengths(market.completion[week, model], COMPLETION_MAX, rng)
        usd = market.usd[model, category]
        if self._at[week] >= DIP_WEEK:
            usd = np.where(self._dips[model], usd * DIP, usd)
        cost = np.rint(usd * NANOUSD_PER_TOKEN * (prompt + completion)).astype(np.int64)
        is_spike = rng.random(count) < market.spike[week, model]
        called = is_spike | (rng.random(count) < market.tools[week, model])
        users = self._of_months(times_ms, model, rng)
        account = pl.Series([TOP_USER]).gather(np.zeros(count, np.int64))
        users = account.zip_with(pl.Series(is_spike), users)
        sampled = rng.random(count) < tables.SAMPLED
        facts = {
            "model": model,
            "tokens_prompt": prompt,
            "tokens_completion": completion,
            "tokens_reasoning": np.where(self._reasons[model], completion // 2, 0),
            "cost_nanousd": cost,
        }
        frame = pl.DataFrame(
            {
                **facts,
                "number": np.arange(first, first + count),
                "model_text": self._model_texts.gather(model),
                "category_text": self._category_texts.gather(category),
                "place_text": self._places.texts(float(self._at[week]), count, rng),
                "tag_text": self._places.tags(category, sampled, rng),
                "user": users,
                "called": called,
                "sampled": sampled,
            }
        )
        keys = [user.encode() for user in users.to_list()]
        return Block(
            values=_rendered(frame, times_ms, self._study.events),
            keys=keys,
            key_hashes=murmur2(keys),
            facts=pl.DataFrame(facts).with_columns(
                pl.lit(None, pl.Int64).alias("tokens_cached"), pl.lit(False).alias("again")
            ),
            times_ms=times_ms,
        )

    def _of_months(self, times_ms: Int64s, model: Int64s, rng: np.random.Generator) -> pl.Series:
        """Return user hashes; a block has one month, or the end of one and the start of the next."""
        months = pl.Series(times_ms).cast(pl.Datetime("ms")).dt.strftime("%Y-%m")
        parts = []
        for month in months.unique(maintain_order=True):
            rows = (months == month).to_numpy()
            parts.append(self._users.choose(str(month), model[rows], rng))
        return pl.concat(parts)


class _Places:
    """Countries, languages and tags within categories."""

    def __init__(self) -> None:
        self._countries = [
            *tables.WITHIN_ASIA, *tables.WITHIN_EUROPE, *tables.ELSEWHERE, *tables.WITHIN_AMERICA,
        ]  # fmt: skip
        self._country_texts = pl.Series([f',"country":"{each}"' for each in self._countries])
        self._languages = _line_of(tables.LANGUAGES)
        self._language_texts = pl.Series(
            [f',"tags":{{"language":"{each}"' for each in tables.LANGUAGES]
        )

    def texts(self, week: float, count: int, rng: np.random.Generator) -> pl.Series:
        asia, europe = (
            float(line(each, np.array([week]))[0]) for each in (tables.ASIA, tables.EUROPE)
        )
        elsewhere = sum(tables.ELSEWHERE.values())
        groups = (
            (tables.WITHIN_ASIA, asia),
            (tables.WITHIN_EUROPE, europe),
            (tables.ELSEWHERE, elsewhere),
            (tables.WITHIN_AMERICA, 1 - asia - europe - elsewhere),
        )
        parts = np.concatenate(
            [
                share * np.array(list(within.values())) / sum(within.values())
                for within, share in groups
            ]
        )
        place = np.searchsorted(np.cumsum(parts), rng.random(count), side="right")
        return self._country_texts.gather(place.clip(0, len(parts) - 1))

    def tags(
        self, category: Int64s, sampled: NDArray[np.bool_], rng: np.random.Generator
    ) -> pl.Series:
        language = np.searchsorted(self._languages, rng.random(len(category)), side="right")
        texts = self._language_texts.gather(language.clip(0, len(self._languages) - 1)).to_list()
        for row in np.flatnonzero(sampled).tolist():
            within = SUBCATEGORIES.get(CATEGORIES[category[row]])
            if within:
                place = int(np.searchsorted(_line_of(within), rng.random(), side="right"))
                name = list(within)[min(place, len(within) - 1)]
                texts[row] += f',"subcategory":"{name}"'
        return pl.Series(texts)


def _day(monday: Any, day: int) -> Any:
    return monday + timedelta(days=day)


def _line_of(parts: dict[str, float]) -> Floats:
    values = np.array(list(parts.values()))
    return np.cumsum(values / values.sum())


def _lengths(means: Floats, most: int, rng: np.random.Generator) -> Int64s:
    lengths = means * np.exp(SIGMA * rng.standard_normal(len(means)) - SIGMA**2 / 2)
    return np.clip(lengths, 1, most).astype(np.int64)


def _rendered(frame: pl.DataFrame, times_ms: Int64s, events: int) -> list[bytes]:
    date, clock, fraction = time_texts(times_ms)
    texts = frame.with_columns(date.alias("date"), clock.alias("clock"), fraction.alias("fraction"))
    called = pl.when("called").then(pl.lit("tool_calls")).otherwise(pl.lit("stop"))
    record = pl.concat_str(
        pl.lit(f'{{"schema_version":1,"event_id":"study-{events}:'),
        "number",
        pl.lit('","source":"synthetic","status":"ok","occurred_at":"'),
        "date",
        "clock",
        # The fraction ends the time and its quotation mark; the model's text begins with one.
        pl.col("fraction").str.strip_suffix('"'),
        "model_text",
        *(
            pl.concat_str(pl.lit(f',"{name}":'), name)
            for name in ("tokens_prompt", "tokens_completion", "tokens_reasoning", "cost_nanousd")
        ),
        pl.lit(',"cost_source":"gateway","finish_reason":"'),
        called,
        pl.lit('","user_hash":"'),
        "user",
        pl.lit('"'),
        pl.when("sampled").then("category_text").otherwise(pl.lit("")),
        "place_text",
        "tag_text",
        pl.lit("}}"),
    )
    lines: list[bytes] = texts.select(record.cast(pl.Binary)).to_series().to_list()
    return lines
